//! What happened, as a picture: over the time, how many buckets nobody led, how many moves were
//! under way, and the most and the fewest buckets of a member.

use std::fmt::Write as _;

use rota_core::simulation::{Metrics, Sample};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const HEIGHT: f64 = 120.0;
const GAP: f64 = 56.0;

/// A line of a chart: what it shows, its colour, and its value in a sample.
type Line = (&'static str, &'static str, fn(&Sample) -> u64);

/// The picture, in SVG.
pub(super) fn svg(account: &Metrics, words: &[String]) -> String {
    let end_ms = account.samples.last().map_or(1, |last| last.at_ms).max(1);
    let charts: [(&str, &[Line]); 3] = [
        ("buckets that nobody leads", &[("", "#c8553d", |s| s.unowned)]),
        ("moves under way", &[("", "#3d6fc8", |s| s.moving)]),
        (
            "buckets of a member",
            &[("the most", "#1b7f5c", |s| s.most), ("the fewest", "#7cc4a9", |s| s.least)],
        ),
    ];
    let mut body = String::new();
    let mut top = GAP;
    for (title, lines) in charts {
        chart(&mut body, account, end_ms, top, title, lines);
        top += HEIGHT + GAP;
    }
    for (phase, words) in account.phases.iter().zip(words) {
        let x = across(phase.at_ms, end_ms);
        let _ = writeln!(
            body,
            r##"<line x1="{x:.1}" x2="{x:.1}" y1="30" y2="{:.0}" stroke="#999999" stroke-dasharray="2 3"><title>{}</title></line>"##,
            top - GAP,
            escaped(words),
        );
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top:.0}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="8" y="20" font-size="14">{} events in {:.1} s</text>
{body}</svg>
"##,
        account.phases.len(),
        end_ms as f64 / 1000.0,
    )
}

fn across(at_ms: u64, end_ms: u64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * at_ms as f64 / end_ms as f64
}

fn chart(body: &mut String, account: &Metrics, end_ms: u64, top: f64, title: &str, lines: &[Line]) {
    let highest = account.samples.iter().flat_map(|s| lines.iter().map(move |(.., value)| value(s))).max();
    let highest = highest.unwrap_or(0).max(1);
    let up = |value: u64| top + HEIGHT - HEIGHT * value as f64 / highest as f64;
    let _ = writeln!(
        body,
        r##"<text x="{LEFT}" y="{:.0}">{title}</text><text x="{:.0}" y="{:.0}" text-anchor="end">{highest}</text><text x="{:.0}" y="{:.0}" text-anchor="end">0</text><line x1="{LEFT}" x2="{:.0}" y1="{:.0}" y2="{:.0}" stroke="#333333"/><text x="{:.0}" y="{:.0}" text-anchor="end">{:.1} s</text>"##,
        top - 8.0,
        LEFT - 6.0,
        top + 10.0,
        LEFT - 6.0,
        top + HEIGHT,
        WIDTH - RIGHT,
        top + HEIGHT,
        top + HEIGHT,
        WIDTH - RIGHT,
        top + HEIGHT + 14.0,
        end_ms as f64 / 1000.0,
    );
    for (at, (name, colour, value)) in lines.iter().enumerate() {
        let mut path = String::new();
        for (n, sample) in account.samples.iter().enumerate() {
            let (x, y) = (across(sample.at_ms, end_ms), up(value(sample)));
            // What was stays until it changes.
            let _ = match n {
                0 => write!(path, "M{x:.1},{y:.1}"),
                _ => write!(path, "H{x:.1}V{y:.1}"),
            };
        }
        let _ = writeln!(
            body,
            r#"<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/><text x="{:.0}" y="{:.0}" fill="{colour}">{name}</text>"#,
            LEFT + 180.0 + 90.0 * at as f64,
            top - 8.0,
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
