//! A plan on its way from the coordinator to agents: the resolved plan, in which secret variables are placeholders, and
//! their values only if the plan says so (`fleet.secrets`).

use crate::usage_error;
use plimsoll_config::{Document, Variables, placeholders};
use plimsoll_fleet::Problem;
use plimsoll_plan::{Body, Plan, SecretsFrom};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const SCHEMA: &str = "plimsoll/fleet-plan/1";

/// A plan as agents receive it.
pub(super) struct SentPlan {
    toml: String,
    variables: BTreeMap<String, String>,
}

impl SentPlan {
    /// A plan to be sent; `variables` are the coordinator's.
    ///
    /// # Errors
    /// The plan contains a secret that is not in a variable, or reads a file.
    pub(super) fn of(plan: &Plan, variables: &Variables) -> anyhow::Result<SentPlan> {
        let toml = plan.to_toml();
        if toml.contains("[redacted]") {
            return Err(usage_error(
                "the plan contains a secret, which must not be sent to agents as it is",
                "put the secret into a variable, such as ${NODE_KEY}, and set it on each agent's host: plimsoll agent --secret NODE_KEY",
            ));
        }
        if let Some(file) = file_of(plan) {
            return Err(usage_error(
                format!(
                    "the plan cannot be sent to agents, which read no files for others: {file}"
                ),
                "write the contents into the plan; for certificates, add the CA to the system of each agent's host",
            ));
        }
        let mut sent = BTreeMap::new();
        if plan.fleet.secrets == SecretsFrom::Coordinator {
            for name in placeholders(&toml) {
                if let Some(value) = variables.get(&name) {
                    sent.insert(name, value.to_string());
                }
            }
        }
        Ok(SentPlan { toml, variables: sent })
    }

    /// As bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        json!({ "schema": SCHEMA, "plan": self.toml, "variables": self.variables })
            .to_string()
            .into_bytes()
    }

    /// Reads what was sent.
    ///
    /// # Errors
    /// Another version sent it.
    pub(super) fn decode(bytes: &[u8]) -> Result<SentPlan, Problem> {
        let problem = |message: String| Problem {
            message,
            hint: "use the same version of plimsoll on all hosts".into(),
        };
        let all: Value = serde_json::from_slice(bytes)
            .map_err(|why| problem(format!("the plan cannot be read: {why}")))?;
        let schema = all["schema"].as_str().unwrap_or_default();
        if schema != SCHEMA {
            return Err(problem(format!(
                "the plan has the version \"{schema}\", expected \"{SCHEMA}\""
            )));
        }
        let variables = all["variables"].as_object().into_iter().flatten();
        let text =
            |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_string()));
        Ok(SentPlan {
            toml: all["plan"].as_str().unwrap_or_default().to_string(),
            variables: variables.filter_map(text).collect(),
        })
    }

    /// The plan, with these variables and those that were sent.
    ///
    /// # Errors
    /// All problems of the plan.
    pub(super) fn read(&self, mut variables: Variables) -> Result<Plan, String> {
        for (name, value) in &self.variables {
            variables.set(name, value);
        }
        let document = Document::new("the plan", self.toml.clone());
        Plan::read_sent(&document, &variables).map_err(|problems| problems.to_string())
    }
}

/// What of a resolved plan is still in a file, if anything is.
fn file_of(plan: &Plan) -> Option<String> {
    let certificates = [("ca", &plan.tls.ca), ("cert", &plan.tls.cert), ("key", &plan.tls.key)];
    let certificate = certificates.into_iter().find_map(|(key, path)| Some((key, path.as_ref()?)));
    let body = plan.requests.iter().find_map(|request| match &request.body {
        Body::File(path, _) => Some(path),
        _ => None,
    });
    let large = plan.targets.iter().find(|target| target.is_in_file());
    certificate
        .map(|(key, path)| format!("tls.{key} = \"{}\"", path.display()))
        .or_else(|| body.map(|path| format!("body_file = \"{}\"", path.display())))
        .or_else(|| {
            large.map(|own| {
                format!("the target file of \"{}\" is too large to be part of the plan", own.name)
            })
        })
}
