//! The format: what is read back after which damage.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A file in memory, which survives its spool.
#[derive(Clone, Debug, Default)]
pub(in crate::usage) struct Memory(pub(in crate::usage) std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

impl Disk for Memory {
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let file = self.0.borrow();
        let rest = file.get(at as usize..).unwrap_or_default();
        let length = rest.len().min(bytes.len());
        bytes[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.0.borrow_mut();
        let end = at as usize + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[at as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.borrow_mut().resize(length as usize, 0);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        *self.0.borrow_mut() = bytes.to_vec();
        Ok(())
    }

    fn remove(&mut self) {
        self.0.borrow_mut().clear();
    }
}

/// This many rows of one hour.
fn rows(hour: u64, count: usize) -> Rows {
    let row = |number: usize| {
        let subject = Subject {
            hour,
            endpoint: format!("e{number:05}"),
            key: "k\"\n".into(),
            service: "eth".into(),
            method: "eth_call".into(),
        };
        (subject, Counts { calls: 1, compute_units: u64::MAX >> 1, ..Counts::default() })
    };
    (0..count).map(row).collect()
}

/// Opens a file as a new process does.
fn open(disk: Memory) -> Spool<Memory> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    Spool::open(disk, format!("w{}", NUMBER.fetch_add(1, Ordering::Relaxed))).unwrap()
}

fn append(spool: &mut Spool<Memory>, rows: &Rows) {
    let mut rows = rows.clone();
    spool.append(&mut rows).unwrap();
    assert!(rows.is_empty());
}

/// A row of version 1 says what was charged, which stands for what was admitted.
#[test]
fn files_of_the_first_version_are_read() {
    let disk = Memory::default();
    drop(open(disk.clone()));
    let counts = Counts { calls: 2, compute_units: 52, ..Counts::default() };
    let row = json!([[7, "e", "k", "eth", "eth_call", counts.values()]]);
    {
        let mut file = disk.0.borrow_mut();
        file[NAME.len()] = b'1';
        file.extend_from_slice(line(&row).as_bytes());
    }
    let mut spool = open(disk.clone());
    let batch = spool.batch().unwrap().unwrap();
    assert_eq!(batch.rows[0].1, Counts { admitted_units: 52, ..counts });
    // A row of this version says both.
    let subject = batch.rows[0].0.clone();
    spool.delivered().unwrap();
    let admitted = Counts { admitted_units: 99, ..counts };
    append(&mut spool, &[(subject, admitted)].into_iter().collect());
    assert_eq!(spool.batch().unwrap().unwrap().rows[0].1, admitted);
}

#[test]
fn batches_stay_the_same_until_they_are_delivered() {
    let disk = Memory::default();
    let mut spool = open(disk.clone());
    assert_eq!(spool.batch().unwrap(), None);
    append(&mut spool, &rows(1, 3));
    let first = spool.batch().unwrap().unwrap();
    assert_eq!((first.sequence, &first.rows), (1, &rows(1, 3).into_vec()));
    append(&mut spool, &rows(2, 2));
    assert_eq!(spool.batch().unwrap().as_ref(), Some(&first));
    // Another process.
    let mut spool = open(disk.clone());
    assert_eq!(spool.batch().unwrap().as_ref(), Some(&first));
    spool.delivered().unwrap();
    let mut spool = open(disk.clone());
    let second = spool.batch().unwrap().unwrap();
    assert_eq!((second.sequence, &second.rows), (1, &rows(2, 2).into_vec()));
    assert_ne!(second.writer, first.writer);
    spool.delivered().unwrap();
    assert!(spool.is_empty() && spool.bytes() == 0);
    assert_eq!(disk.0.borrow().len() as u64, HEADER_BYTES);
    assert_eq!(open(disk).batch().unwrap(), None);
}

#[test]
fn long_files_are_sent_in_parts_and_merged() {
    let disk = Memory::default();
    let mut spool = open(disk.clone());
    append(&mut spool, &rows(1, Batch::ROWS_MAX + 700));
    let first = spool.batch().unwrap().unwrap();
    assert_eq!(first.rows.len(), Batch::ROWS_MAX);
    for _ in 0..50 {
        append(&mut spool, &rows(2, 100));
    }
    let before = spool.length();
    spool.merge(0).unwrap();
    assert!(spool.length() * 2 < before, "{before} {}", spool.length());
    let again = spool.length();
    spool.merge(0).unwrap();
    assert_eq!(spool.length(), again, "once");
    let mut spool = open(disk);
    assert_eq!(spool.batch().unwrap().as_ref(), Some(&first));
    spool.delivered().unwrap();
    let second = spool.batch().unwrap().unwrap();
    spool.delivered().unwrap();
    let calls: u64 = second.rows.iter().map(|(_, counts)| counts.calls).sum();
    assert_eq!((calls, second.rows.len()), (700 + 50 * 100, 700 + 100));
    assert!(spool.is_empty());
}

/// Cut at every byte, the file has all whole additions, and can be appended to.
#[test]
fn torn_ends_are_cut_off() {
    let disk = Memory::default();
    let mut spool = open(disk.clone());
    let ends: Vec<u64> = (1..=3)
        .map(|hour| {
            append(&mut spool, &rows(hour, 1));
            spool.length()
        })
        .collect();
    let whole = disk.0.borrow().clone();
    for length in 0..=whole.len() {
        let disk = Memory(std::rc::Rc::new(std::cell::RefCell::new(whole[..length].to_vec())));
        let mut spool =
            Spool::open(disk.clone(), "w".into()).unwrap_or_else(|why| panic!("{length}: {why}"));
        let kept = ends.iter().filter(|end| **end <= length as u64).count();
        append(&mut spool, &rows(9, 1));
        let mut spool = open(disk);
        let batch = spool.batch().unwrap().unwrap();
        let hours: Vec<u64> = batch.rows.iter().map(|(row, _)| row.hour).collect();
        assert_eq!(hours, (1..=kept as u64).chain([9]).collect::<Vec<_>>(), "{length}");
        assert_eq!(spool.damaged(), 0, "{length}");
    }
}

#[test]
fn damage_is_counted_and_the_rest_is_used() {
    let disk = Memory::default();
    let mut spool = open(disk.clone());
    let mut ends = vec![HEADER_BYTES];
    for hour in 1..=3 {
        append(&mut spool, &rows(hour, 1));
        ends.push(spool.length());
    }
    disk.0.borrow_mut()[ends[1] as usize + 20] ^= 1;
    let mut spool = open(disk.clone());
    assert_eq!(spool.damaged(), 1);
    let batch = spool.batch().unwrap().unwrap();
    let hours: Vec<u64> = batch.rows.iter().map(|(row, _)| row.hour).collect();
    assert_eq!(hours, [1, 3]);

    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = disk.0.borrow().clone();
        change(&mut bytes);
        let disk = Memory(std::rc::Rc::new(std::cell::RefCell::new(bytes.clone())));
        let why = Spool::open(disk.clone(), "w".into()).unwrap_err();
        assert_eq!(*disk.0.borrow(), bytes, "left as it is");
        why.to_string()
    };
    let newer = refused(&|bytes| bytes[NAME.len()] = b'7');
    assert!(newer.contains("newer version of this program (format 7"), "{newer}");
    assert!(refused(&|bytes| bytes[0] = b'P').contains("damaged"));
    let both = |bytes: &mut Vec<u8>| SLOTS.iter().for_each(|at| bytes[*at as usize + 12] ^= 1);
    assert!(refused(&both).contains("damaged"));
    assert!(refused(&|bytes| *bytes = b"something else\n".to_vec()).contains("damaged"));
}

/// The answer to the last delivery was not written down, and the file was cut: what is appended later is
/// not part of that batch.
#[test]
fn a_cut_file_is_appended_to_safely() {
    let disk = Memory::default();
    let mut spool = open(disk.clone());
    append(&mut spool, &rows(1, 5));
    let sent = spool.batch().unwrap().unwrap();
    disk.0.borrow_mut().truncate(HEADER_BYTES as usize);
    let mut spool = open(disk.clone());
    append(&mut spool, &rows(2, 1));
    for _ in 0..2 {
        let mut spool = open(disk.clone());
        let batch = spool.batch().unwrap().unwrap();
        assert_eq!(batch, Batch { rows: Vec::new(), ..sent.clone() });
    }
    let mut spool = open(disk);
    spool.delivered().unwrap();
    assert_eq!(spool.batch().unwrap().unwrap().rows, rows(2, 1).into_vec());
}
