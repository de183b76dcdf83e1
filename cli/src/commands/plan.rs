//! `rota plan`: what is to be moved.

use std::process::ExitCode;

use clap::Subcommand;
use rota_client::Client;
use rota_protocol::http::PlanBody;

use super::change::{first_moves, shortages};
use crate::operator::{Operator, Reading};
use crate::output::facts;

/// Plans: the moves between living members of a pool.
#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// Show a pool's plan: its pending moves, and what the planner said of it.
    #[command(after_help = "Example:\n  rota plan show mail")]
    Show {
        /// The pool.
        pool: String,
        #[command(flatten)]
        reading: Reading,
    },
}

pub(crate) async fn run(operator: &Operator, command: PlanCommand) -> anyhow::Result<ExitCode> {
    let PlanCommand::Show { pool, reading } = command;
    let path = Client::query(&Client::path(["v1", "pools", &pool, "plan"]), [reading.param()]);
    operator.show(&path, describe).await?;
    Ok(ExitCode::SUCCESS)
}

fn describe(plan: &PlanBody) -> String {
    let report = &plan.report;
    let text = facts([
        ("plan", plan.number.to_string()),
        ("parent", plan.parent.to_string()),
        ("done", plan.done.to_string()),
        ("pending", plan.pending.len().to_string()),
        ("moves to balance", report.moves.to_string()),
        ("fewest possible", report.moves_lower_bound.to_string()),
        ("placements", report.placements.to_string()),
        ("unplaced", report.unplaced.to_string()),
        ("imbalance", format!("{:.3} buckets", f64::from(report.imbalance_milli) / 1000.0)),
    ]);
    let text = format!("{text}{}", shortages(report));
    if plan.pending.is_empty() {
        return text;
    }
    let moves = first_moves(&plan.pending);
    format!("{text}\n{moves}")
}
