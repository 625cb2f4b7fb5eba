//! Messages between the agent and the shim.
