//! `rota plan`: what is to be moved.

use std::process::ExitCode;

use clap::Subcommand;
use rota_client::Client;
use rota_core::pool::Report;
use rota_protocol::http::PlanBody;

use super::change::{first_moves, shortages};
use crate::operator::{Operator, Reading};
use crate::output::facts;

/// Plans: the moves between living members of a pool.
#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// Show a pool's plan: its pending moves, and what the planner said of it.
    #[command(
        after_help = "HOW says \"lead\" where both own the bucket and only the lead passes on; the reason is why it is planned.

Example:
  rota plan show mail"
    )]
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

/// How far the plan's outcome is from what would be even.
fn imbalance(report: &Report) -> String {
    let milli = |milli: u64| format!("{:.3}", milli as f64 / 1000.0);
    match (report.busiest_milli, report.busiest_bound_milli) {
        (Some(busiest), Some(bound)) => {
            format!(
                "the busiest member has {} for its weight, at least {} is needed",
                milli(busiest),
                milli(bound)
            )
        }
        _ => format!("{} buckets", milli(u64::from(report.imbalance_milli))),
    }
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
        ("imbalance", imbalance(report)),
    ]);
    let text = format!("{text}{}", shortages(report));
    if plan.pending.is_empty() {
        return text;
    }
    let moves = first_moves(&plan.pending);
    format!("{text}\n{moves}")
}
