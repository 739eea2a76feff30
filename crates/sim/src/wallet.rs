//! Accounts with known keys, to send transactions from. On a simulated node every address starts with
//! a million ether.
//!
//! For tests and load tests. The keys are derived from a number and are not secret.

use k256::ecdsa::SigningKey;

use crate::chain::keccak::keccak;
use crate::node::raw::{address_of, list, write_bytes, write_number};

/// Gas of a transfer.
const GAS: u64 = 21_000;

/// An account with its key.
pub struct Wallet {
    key: SigningKey,
    address: [u8; 20],
}

impl Wallet {
    /// The account with this number.
    ///
    /// # Panics
    /// If the hash of the number is not a valid key, which does not happen in practice.
    pub fn numbered(number: u64) -> Wallet {
        let secret = keccak(&number.to_be_bytes());
        let key = SigningKey::from_slice(&secret).expect("a hash below the curve's order");
        let address = address_of(key.verifying_key());
        Wallet { key, address }
    }

    /// The address, `0x…`.
    pub fn address(&self) -> String {
        hex(&self.address)
    }

    /// A signed transfer of `wei` to `to`, for `eth_sendRawTransaction`: type 2, with a gas price of at
    /// most 100 gwei.
    pub fn transfer(&self, chain_id: u64, nonce: u64, to: [u8; 20], wei: u64) -> String {
        let mut body = Vec::new();
        for number in [chain_id, nonce, 1_000_000_000, 100_000_000_000, GAS] {
            write_number(&mut body, number);
        }
        write_bytes(&mut body, &to);
        write_number(&mut body, wei);
        // No data, no access list.
        body.extend([0x80, 0xc0]);
        let digest = keccak(&[&[2], &list(&body)[..]].concat());
        let (signature, recovery) = self.key.sign_prehash_recoverable(&digest);
        write_number(&mut body, u64::from(recovery.is_y_odd()));
        let (r, s) = signature.split_bytes();
        for part in [r, s] {
            let zeros = part.iter().take_while(|byte| **byte == 0).count();
            write_bytes(&mut body, &part[zeros..]);
        }
        hex(&[&[2], &list(&body)[..]].concat())
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}")
}
