//! Nonces, balances, code, storage, and contract calls.

use std::collections::HashMap;

use super::failure::Failure;
use super::params::{BlockRef, Params};
use super::write::{data, quantity};
use super::{Node, View};
use crate::chain::keccak::{Hash, keccak};
use crate::chain::ledger::ACCOUNTS;
use crate::chain::transaction::{Address, RECORDER, REVERTER, TOKEN, TRANSFER, balance_slot, word};
use crate::chain::{ETHER_AT_GENESIS, TOKENS_AT_GENESIS};

/// Default gas of a call.
const CALL_GAS: u64 = 50_000_000;
/// Base gas of every transaction.
pub(super) const GAS_BASE: u64 = 21_000;
/// Storage slot of the token's supply.
const SUPPLY_SLOT: u128 = 2;
/// Selector of the revert data `Error(string)`.
const ERROR: [u8; 4] = [0x08, 0xc3, 0x79, 0xa0];
/// Code of the reverter: PUSH1 0, PUSH1 0, REVERT.
const REVERTER_CODE: &[u8] = &[0x60, 0x00, 0x60, 0x00, 0xfd];

/// The result of a contract call.
enum Returned {
    Data(Vec<u8>),
    Reverted { reason: &'static str },
}

/// The transaction object of eth_call and eth_estimateGas.
struct Request {
    from: Address,
    to: Option<Address>,
    value: u128,
    gas: u64,
    input: Vec<u8>,
}

impl Request {
    fn read(params: &Params<'_>) -> Result<Request, Failure> {
        let mut request =
            Request { from: [0; 20], to: None, value: 0, gas: CALL_GAS, input: Vec::new() };
        let (mut data, mut input) = (None, None);
        for (name, value) in params.need(0)?.members()? {
            match name.as_str() {
                "from" => request.from = value.fixed("common.Address")?,
                "to" => request.to = Some(value.fixed("common.Address")?),
                "value" => request.value = value.quantity()?,
                "gas" => request.gas = value.number()?,
                "data" => data = Some(value.bytes()?),
                "input" => input = Some(value.bytes()?),
                _ => {}
            }
        }
        if let (Some(data), Some(input)) = (&data, &input)
            && data != input
        {
            return Err(Failure::server(
                "both \"data\" and \"input\" are set and not equal. Please use \"input\" to pass transaction call data",
            ));
        }
        request.input = input.or(data).unwrap_or_default();
        Ok(request)
    }
}

impl Node {
    pub(super) fn get_nonce(
        &self,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let (address, named) = address_and_block(params)?;
        let number = self.state_at(named, view)?;
        let nonce = match (named, self.chain.account_at(&address)) {
            (_, Some(account)) => self.chain.ledger.nonce(account, number),
            (BlockRef::Pending, None) => self.pool().total(&address).sent,
            (_, None) => self.pool().sums(&address, number).sent,
        };
        quantity(out, nonce.into());
        Ok(())
    }

    pub(super) fn get_balance(
        &self,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let (address, named) = address_and_block(params)?;
        quantity(out, self.ether(&address, self.state_at(named, view)?));
        Ok(())
    }

    pub(super) fn get_code(
        &self,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let (address, named) = address_and_block(params)?;
        data(out, &self.code(&address, self.state_at(named, view)?));
        Ok(())
    }

    pub(super) fn get_storage(
        &self,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let params = Params::read(params, 3)?;
        let address: Address = params.need(0)?.fixed("common.Address")?;
        let slot = params.need(1)?.slot()?;
        let number = self.state_at(params.block(2)?, view)?;
        let value = if address != TOKEN {
            [0; 32]
        } else if slot == word(SUPPLY_SLOT) {
            word(TOKENS_AT_GENESIS)
        } else {
            let generated = self.slots().get(&slot).map(|account| self.chain.account(*account));
            let holder = generated.or_else(|| self.pool().holder(&slot));
            holder.map_or([0; 32], |holder| word(self.tokens(&holder, number)))
        };
        data(out, &value);
        Ok(())
    }

    pub(super) fn call(
        &self,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let params = Params::read(params, 4)?;
        let request = Request::read(&params)?;
        let number = self.state_at(params.block(1)?, view)?;
        data(out, &self.execute(&request, number)?);
        Ok(())
    }

    pub(super) fn estimate_gas(
        &self,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let params = Params::read(params, 3)?;
        let request = Request::read(&params)?;
        let number = self.state_at(params.block(1)?, view)?;
        self.execute(&request, number)?;
        let gas = gas_used(request.to.as_ref(), &request.input);
        if gas > request.gas {
            let allowance = request.gas;
            return Err(Failure::server(format!("gas required exceeds allowance ({allowance})")));
        }
        quantity(out, gas.into());
        Ok(())
    }

    fn execute(&self, request: &Request, number: u64) -> Result<Vec<u8>, Failure> {
        let held = self.ether(&request.from, number);
        if request.value > held {
            let from = hex(&request.from);
            return Err(Failure::server(format!(
                "insufficient funds for transfer: address {from} have {held} want {}",
                request.value
            )));
        }
        if request.gas < GAS_BASE {
            let have = request.gas;
            return Err(Failure::server(format!(
                "intrinsic gas too low: have {have}, want {GAS_BASE}"
            )));
        }
        match self.run(request, number) {
            Returned::Data(bytes) => Ok(bytes),
            Returned::Reverted { reason: "" } => Err(Failure::reverted("", &[])),
            Returned::Reverted { reason } => {
                let mut text = reason.as_bytes().to_vec();
                text.resize(reason.len().next_multiple_of(32), 0);
                let length = word(reason.len() as u128);
                let bytes = [&ERROR[..], &word(32), &length, &text].concat();
                Err(Failure::reverted(reason, &bytes))
            }
        }
    }

    fn run(&self, request: &Request, number: u64) -> Returned {
        let Some(to) = request.to else { return Returned::Data(request.input.clone()) };
        if to == REVERTER {
            return Returned::Reverted { reason: "this contract reverts every call" };
        }
        if to == TOKEN {
            return self.run_token(request, number);
        }
        if to == RECORDER || self.is_created(&to, number) {
            return Returned::Data(word(number.into()).to_vec());
        }
        Returned::Data(Vec::new())
    }

    fn run_token(&self, request: &Request, number: u64) -> Returned {
        let address = |at: usize| {
            let word = request.input.get(4 + 32 * at..36 + 32 * at)?;
            <Address>::try_from(&word[12..]).ok()
        };
        let selector = request.input.first_chunk::<4>().copied().unwrap_or_default();
        let answer = match selector {
            [0x70, 0xa0, 0x82, 0x31] => {
                address(0).map(|holder| word(self.tokens(&holder, number)).to_vec())
            }
            [0x18, 0x16, 0x0d, 0xdd] => Some(word(TOKENS_AT_GENESIS).to_vec()),
            [0x31, 0x3c, 0xe5, 0x67] => Some(word(18).to_vec()),
            [0x95, 0xd8, 0x9b, 0x41] => Some(abi_text("PLIM")),
            [0x06, 0xfd, 0xde, 0x03] => Some(abi_text("Plimsoll Token")),
            [0xdd, 0x62, 0xed, 0x3e] => Some(word(0).to_vec()),
            TRANSFER => match transfer(&request.input) {
                Some((_, amount)) if amount <= self.tokens(&request.from, number) => {
                    Some(word(1).to_vec())
                }
                Some(_) => {
                    let reason = "ERC20: transfer amount exceeds balance";
                    return Returned::Reverted { reason };
                }
                None => None,
            },
            _ => None,
        };
        answer.map_or(Returned::Reverted { reason: "" }, Returned::Data)
    }

    /// The balance of an address at the end of a block, in wei.
    fn ether(&self, address: &Address, number: u64) -> u128 {
        let (gained, lost) = match self.chain.account_at(address) {
            Some(account) => self.chain.ledger.ether(account, number),
            None => (0, 0),
        };
        let sent = self.pool().sums(address, number).ether;
        (self.ether_at_genesis(address) + gained).saturating_sub(lost).saturating_add_signed(sent)
    }

    /// The initial balance of an address, in wei; zero for contracts.
    pub(super) fn ether_at_genesis(&self, address: &Address) -> u128 {
        let contract = [TOKEN, RECORDER, REVERTER].contains(address)
            || self.chain.creation_at(address).is_some();
        if contract { 0 } else { ETHER_AT_GENESIS }
    }

    /// The balance of an address at the end of a block, in token units.
    fn tokens(&self, address: &Address, number: u64) -> u128 {
        let (gained, lost) = match self.chain.account_at(address) {
            Some(account) => self.chain.ledger.tokens(account, number),
            None => (0, 0),
        };
        let sent = self.pool().sums(address, number).tokens;
        (TOKENS_AT_GENESIS + gained).saturating_sub(lost).saturating_add_signed(sent)
    }

    /// The generated accounts by the token's storage slot that contains their balance.
    fn slots(&self) -> &HashMap<Hash, u64> {
        self.slots.get_or_init(|| {
            (0..ACCOUNTS).map(|n| (balance_slot(&self.chain.account(n)), n)).collect()
        })
    }

    fn is_created(&self, address: &Address, number: u64) -> bool {
        use crate::chain::ledger::Action;
        self.chain.creation_at(address).is_some_and(|(ordinal, block)| {
            block <= number && self.chain.ledger.turn(ordinal).action() == Action::Create
        }) || self.pool().created_in(address).is_some_and(|block| block <= number)
    }

    fn code(&self, address: &Address, number: u64) -> Vec<u8> {
        match *address {
            REVERTER => REVERTER_CODE.to_vec(),
            TOKEN => [&[0x60, 0x80, 0x60, 0x40], &keccak(b"token")[..]].concat(),
            RECORDER => [&[0x60, 0x80, 0x60, 0x40], &keccak(b"recorder")[..]].concat(),
            _ if self.is_created(address, number) => {
                [&[0x60, 0x80, 0x60, 0x40], &keccak(address)[..]].concat()
            }
            _ => Vec::new(),
        }
    }
}

fn address_and_block(params: Option<&[u8]>) -> Result<(Address, BlockRef), Failure> {
    let params = Params::read(params, 2)?;
    Ok((params.need(0)?.fixed("common.Address")?, params.block(1)?))
}

/// The gas used by a transaction or call: the cost of its bytes (EIP-2028), plus a constant for each
/// contract.
pub(super) fn gas_used(to: Option<&Address>, input: &[u8]) -> u64 {
    let bytes: u64 = input.iter().map(|byte| if *byte == 0 { 4 } else { 16 }).sum();
    let work = match to {
        None => 32_000 + 200 * input.len() as u64,
        Some(&TOKEN) => 29_000,
        Some(&RECORDER) => 60_000,
        Some(_) => 0,
    };
    GAS_BASE + bytes + work
}

/// Receiver and amount of a token transfer; an amount beyond 128 bits becomes the maximum.
pub(super) fn transfer(input: &[u8]) -> Option<(Address, u128)> {
    let words = input.strip_prefix(&TRANSFER)?;
    let to = words.get(12..32)?.try_into().ok()?;
    let amount = words.get(32..64)?;
    let (high, low) = amount.split_at(16);
    let low = low.try_into().map(u128::from_be_bytes).ok()?;
    Some((to, if high.iter().all(|byte| *byte == 0) { low } else { u128::MAX }))
}

fn abi_text(text: &str) -> Vec<u8> {
    let mut padded = [0; 32];
    padded[..text.len()].copy_from_slice(text.as_bytes());
    [word(32), word(text.len() as u128), padded].concat()
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}")
}
