//! What was asked and answered, and when.

use std::cell::RefCell;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Answers are counted in slices of this length, to see when there were none.
const SLICE: Duration = Duration::from_millis(100);
/// Answers that take longer count as this: a minute.
const LATENCY_US_MAX: u64 = 60_000_000;

/// What all connections have seen.
#[derive(Default)]
pub struct Record {
    inner: RefCell<Option<Inner>>,
}

struct Inner {
    began: Instant,
    latency: Histogram<u64>,
    refused: u64,
    lost: u64,
    last: Instant,
    longest_silence: Duration,
    slices: Vec<u64>,
}

/// What came out, as the load's process tells it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Answers.
    pub done: u64,
    /// Questions that were refused.
    pub refused: u64,
    /// Questions whose answers never came.
    pub lost: u64,
    /// How long it was measured, in seconds.
    pub seconds: f64,
    /// Processor time that the load itself cost, in microseconds for each answer.
    pub own_us: f64,
    /// Times from a question to its answer, in microseconds.
    pub latency_us: Latency,
    /// The longest time in which nothing was done, in milliseconds.
    pub longest_silence_ms: f64,
    /// What was done in each tenth of a second.
    pub tenths: Vec<u64>,
}

/// Of so many answers, the slowest.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[allow(missing_docs)] // Their shares in percent.
pub struct Latency {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Record {
    /// From now on, it is counted.
    pub fn begin(&self) {
        let now = Instant::now();
        let latency = Histogram::new_with_max(LATENCY_US_MAX, 3).expect("three digits are allowed");
        *self.inner.borrow_mut() = Some(Inner {
            began: now,
            latency,
            refused: 0,
            lost: 0,
            last: now,
            longest_silence: Duration::ZERO,
            slices: Vec::new(),
        });
    }

    /// How much was done since it is counted.
    pub fn total(&self) -> u64 {
        self.inner.borrow().as_ref().map_or(0, |inner| inner.latency.len())
    }

    /// Something was done that had been asked at `asked`.
    pub fn done(&self, asked: Instant, now: Instant) {
        let mut inner = self.inner.borrow_mut();
        let Some(inner) = inner.as_mut() else { return };
        // What was asked before it began has not waited so long for this.
        let took = now.saturating_duration_since(asked.max(inner.began));
        inner.latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        inner.longest_silence = inner.longest_silence.max(now.saturating_duration_since(inner.last));
        inner.last = now;
        let slice = usize::try_from((now - inner.began).as_millis() / SLICE.as_millis()).unwrap_or(0);
        if inner.slices.len() <= slice {
            inner.slices.resize(slice + 1, 0);
        }
        inner.slices[slice] += 1;
    }

    /// Something was refused.
    pub fn refused(&self) {
        if let Some(inner) = self.inner.borrow_mut().as_mut() {
            inner.refused += 1;
        }
    }

    /// The answers to so many questions will not come.
    pub fn lost(&self, questions: usize) {
        if let Some(inner) = self.inner.borrow_mut().as_mut() {
            inner.lost += questions as u64;
        }
    }

    /// What came out in `took`, for which this process used `own`.
    pub fn report(&self, took: Duration, own: Duration) -> anyhow::Result<Report> {
        let inner = self.inner.borrow();
        let inner = inner.as_ref().ok_or_else(|| anyhow::anyhow!("it has not begun"))?;
        let done = inner.latency.len();
        let at = |quantile| inner.latency.value_at_quantile(quantile);
        let silence = inner.longest_silence.max(inner.last.elapsed());
        Ok(Report {
            done,
            refused: inner.refused,
            lost: inner.lost,
            seconds: took.as_secs_f64(),
            own_us: own.as_secs_f64() * 1e6 / done.max(1) as f64,
            latency_us: Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: inner.latency.max() },
            longest_silence_ms: silence.as_secs_f64() * 1e3,
            tenths: inner.slices.clone(),
        })
    }
}
