//! Plans: reading any text gives errors or a plan that can be written and read back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_config::{Document, Variables};
use plimsoll_plan::Plan;
use std::path::Path;

fuzz_target!(|text: &str| {
    let folder = Path::new("/nonexistent");
    let variables = Variables::none();
    if let Ok(plan) = Plan::read(&Document::new("plan.toml", text), &variables, folder) {
        let shown = plan.to_toml();
        let again = Plan::read(&Document::new("shown.toml", shown.as_str()), &variables, folder);
        // Redacted secrets are the only exception: they do not read back.
        if !shown.contains("[redacted]") {
            assert_eq!(again.expect("a resolved plan is valid").to_toml(), shown);
        }
        let _ = plan.describe();
    }
});
