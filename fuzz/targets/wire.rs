//! Messages between the agent and a shim: what decodes, encodes to the same message.
#![no_main]

use berth_model::wire::{Plan, Request, Response};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = Request::decode(bytes) {
        assert_eq!(Request::decode(&message.encode()).as_ref(), Ok(&message));
    }
    if let Ok(message) = Response::decode(bytes) {
        assert_eq!(Response::decode(&message.encode()).as_ref(), Ok(&message));
    }
    if let Ok(plan) = Plan::decode(bytes) {
        assert_eq!(Plan::decode(&plan.encode()).as_ref(), Ok(&plan));
    }
});
