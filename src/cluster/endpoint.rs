//! Which of the addresses of a node's name is meant.
//!
//! A name may have several addresses, and they may change. What the probes see of a node is true of the server they
//! are connected to, so everybody connects to that one.

use std::net::IpAddr;

use parking_lot::Mutex;

/// How often in a row an address may be missing from what its name resolves to before it is given up: some name
/// servers give a part of the list at a time.
const MISSES_MAX: u32 = 3;

/// The address in use, shared by all who connect.
#[derive(Debug, Default)]
pub struct Endpoint(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    address: Option<IpAddr>,
    misses: u32,
}

impl Endpoint {
    /// The address; `None` while nobody has connected, and for hosts that are no names.
    pub fn address(&self) -> Option<IpAddr> {
        self.0.lock().address
    }

    /// The probe is connected there now. Whether that is another server than before.
    pub fn settle(&self, address: IpAddr) -> bool {
        let mut state = self.0.lock();
        state.misses = 0;
        state.address.replace(address).is_some_and(|before| before != address)
    }

    /// The name resolves to these. Whether the address is to be left: it has been missing for long enough, or,
    /// where there is a `hurry`, at all.
    pub fn is_gone(&self, listed: &[IpAddr], hurry: bool) -> bool {
        let mut state = self.0.lock();
        let Some(address) = state.address else { return false };
        // A name that resolves to nothing is a mistake of the name server's.
        if listed.is_empty() || listed.contains(&address) {
            state.misses = 0;
            return false;
        }
        state.misses += 1;
        hurry || state.misses >= MISSES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_left_when_its_name_has_moved() {
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let endpoint = Endpoint::default();
        assert!(!endpoint.is_gone(&[b], true), "nobody is connected");
        assert!(!endpoint.settle(a) && endpoint.address() == Some(a));
        assert!(!endpoint.is_gone(&[b, a], true) && !endpoint.is_gone(&[], true));
        let gone: Vec<_> = (0..3).map(|_| endpoint.is_gone(&[b], false)).collect();
        assert_eq!(gone, [false, false, true]);
        assert!(!endpoint.is_gone(&[a], false) && !endpoint.is_gone(&[b], false), "the count begins anew");
        assert!(endpoint.is_gone(&[b], true), "not while clients wait");
        assert!(!endpoint.settle(a) && endpoint.settle(b));
    }
}
