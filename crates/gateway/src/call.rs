//! What happens to a call: its route, its attempts, the judgement of its answer.

pub(crate) mod relay;
pub(crate) mod routing;
pub(crate) mod worker;
