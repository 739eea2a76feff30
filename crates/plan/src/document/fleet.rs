//! Reads `fleet = { on_agent_loss = "continue", secrets = "agent" }`: rules for a run over several agents. A run
//! on one host ignores them.

use plimsoll_config::Table;

/// What happens when an agent is lost during a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnAgentLoss {
    /// The other agents continue with their parts; the lost agent's arrivals are unsent.
    #[default]
    Continue,
    /// The other agents take over the lost agent's part.
    Rebalance,
    /// The run is stopped.
    Abort,
}

impl OnAgentLoss {
    /// As written in a plan.
    pub const WORDS: [(&'static str, OnAgentLoss); 3] = [
        ("continue", OnAgentLoss::Continue),
        ("rebalance", OnAgentLoss::Rebalance),
        ("abort", OnAgentLoss::Abort),
    ];
}

/// Where the values of a plan's secret variables come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretsFrom {
    /// Each agent's environment; they never leave its host.
    #[default]
    Agent,
    /// The coordinator's environment; they are sent to the agents with the plan, and stored by NATS until
    /// the run ends.
    Coordinator,
}

impl SecretsFrom {
    /// As written in a plan.
    pub const WORDS: [(&'static str, SecretsFrom); 2] =
        [("agent", SecretsFrom::Agent), ("coordinator", SecretsFrom::Coordinator)];
}

/// Rules for a run over several agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FleetRules {
    /// What happens when an agent is lost.
    pub on_agent_loss: OnAgentLoss,
    /// Where secrets come from.
    pub secrets: SecretsFrom,
}

pub(super) fn read_fleet(root: &Table<'_>) -> FleetRules {
    let mut rules = FleetRules::default();
    let Some(table) = root.field("fleet").and_then(|field| field.table("fleet")) else {
        return rules;
    };
    let loss = table.field("on_agent_loss").and_then(|field| field.one_of(&OnAgentLoss::WORDS));
    rules.on_agent_loss = loss.unwrap_or_default();
    let secrets = table.field("secrets").and_then(|field| field.one_of(&SecretsFrom::WORDS));
    rules.secrets = secrets.unwrap_or_default();
    table.close();
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plan;
    use plimsoll_config::{Document, Variables};
    use std::path::Path;

    fn read(text: &str) -> Result<Plan, String> {
        let text = format!(
            "{text}\n[[stream]]\nrate = 1\nduration = \"1s\"\nagents = {{ chain = \"boba\" }}\n\
             [[stream.target]]\nrequest = \"GET http://h/\"\n"
        );
        let plan = Plan::read(&Document::new("p", text), &Variables::none(), Path::new("."));
        plan.map_err(|problems| problems.to_string())
    }

    #[test]
    fn rules_and_labels_read_back() {
        let plan =
            read("fleet = { on_agent_loss = \"rebalance\", secrets = \"coordinator\" }").unwrap();
        let rules =
            FleetRules { on_agent_loss: OnAgentLoss::Rebalance, secrets: SecretsFrom::Coordinator };
        assert_eq!((plan.fleet, plan.streams[0].agents["chain"].as_str()), (rules, "boba"));
        let document = Document::new("p", plan.to_toml());
        let again = Plan::read(&document, &Variables::none(), Path::new(".")).unwrap();
        assert_eq!((again.fleet, &again.streams[0].agents), (rules, &plan.streams[0].agents));
        assert_eq!(read("").unwrap().fleet, FleetRules::default());
    }

    #[test]
    fn unknown_words_are_refused() {
        let error = read("fleet = { on_agent_loss = \"retry\", secret = 1 }").unwrap_err();
        assert!(error.contains("rebalance") && error.contains("\"secret\""), "{error}");
    }
}
