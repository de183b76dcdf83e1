//! A chart of the throughput: for each workload a group of bars, each as long as its
//! system's share of the best.

use std::fmt::Write as _;

use crate::compare::WORKLOADS;
use crate::results::{Results, rate};
use crate::systems::Kind;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 150.0;
const BARS: f64 = 440.0;
const BAR: f64 = 16.0;
const GAP: f64 = 14.0;

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Rota => "#1b7f5c",
        Kind::RotaHttp => "#7cc4a9",
        Kind::Zookeeper => "#c8553d",
        Kind::Etcd => "#3d6fc8",
    }
}

/// The chart, in SVG.
pub fn svg(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 40.0;
    for workload in WORKLOADS.map(|workload| workload.name) {
        let rates: Vec<(Kind, f64)> = results
            .systems()
            .into_iter()
            .filter_map(|kind| Some((kind, results.median(workload, kind, rate)?)))
            .collect();
        let Some(best) = rates.iter().map(|(_, rate)| *rate).reduce(f64::max) else { continue };
        let _ =
            writeln!(body, r#"<text x="8" y="{:.0}" font-weight="bold">{workload}</text>"#, y + BAR - 3.0);
        for (kind, rate) in rates {
            let length = BARS * rate / best;
            let _ = writeln!(
                body,
                r#"<text x="{:.0}" y="{:.0}" text-anchor="end">{}</text><rect x="{LEFT}" y="{y:.0}" width="{length:.1}" height="{:.0}" fill="{}"/><text x="{:.0}" y="{:.0}">{rate:.0}/s</text>"#,
                LEFT - 8.0,
                y + BAR - 3.0,
                kind.name(),
                BAR - 2.0,
                colour(kind),
                LEFT + length + 6.0,
                y + BAR - 3.0,
            );
            y += BAR;
        }
        y += GAP;
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y:.0}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="8" y="20" font-size="14">Operations in a second, three servers on one machine; medians</text>
{body}</svg>
"##
    )
}
