//! Renders the measurements as a Markdown table. Pure.

/// A number of a row, and its goal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    pub name: &'static str,
    /// `None`: for comparison only.
    pub goal: Option<Goal>,
    pub decimals: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// All values of one metric for one program.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub row: String,
    pub metric: Metric,
    pub program: String,
    pub values: Vec<f64>,
    /// Remarks on the numbers, such as missing lines.
    pub notes: Vec<String>,
}

/// The first program of each (row, metric) is the baseline: the table shows the other medians as multiples of it.
pub(crate) fn render(all: &[Series]) -> String {
    let mut text = String::from("| row | what | program | median | min to max | goal | times the first | |\n");
    text += "|---|---|---|---|---|---|---|---|\n";
    for (at, series) in all.iter().enumerate() {
        let is_same = |other: &&Series| (&other.row, other.metric.name) == (&series.row, series.metric.name);
        let baseline = all.iter().find(is_same).and_then(|first| median(&first.values));
        let is_baseline = !all[..at].iter().any(|other| is_same(&other));
        text += &line(series, baseline, is_baseline);
    }
    text
}

fn line(series: &Series, baseline: Option<f64>, is_baseline: bool) -> String {
    let decimals = series.metric.decimals;
    let shown = |value: f64| format!("{value:.decimals$}");
    let median = median(&series.values);
    let least = series.values.iter().copied().reduce(f64::min).unwrap_or(0.0);
    let most = series.values.iter().copied().reduce(f64::max).unwrap_or(0.0);
    let goal = match series.metric.goal.filter(|_| is_baseline) {
        None => String::new(),
        Some(goal) => verdict(goal, median),
    };
    let times = match (median, baseline) {
        (Some(median), Some(baseline)) if !is_baseline && baseline > 0.0 => format!("{:.1}", median / baseline),
        _ => String::new(),
    };
    let mut notes = series.notes.clone();
    notes.dedup();
    format!(
        "| {} | {} | {} | {} | {} to {} | {goal} | {times} | {} |\n",
        series.row,
        series.metric.name,
        series.program,
        median.map_or("-".to_owned(), shown),
        shown(least),
        shown(most),
        notes.join("; ")
    )
}

fn verdict(goal: Goal, median: Option<f64>) -> String {
    let (sign, bound) = match goal {
        Goal::AtMost(bound) => ("<=", bound),
        Goal::AtLeast(bound) => (">=", bound),
    };
    let is_met = median.is_some_and(|median| match goal {
        Goal::AtMost(bound) => median <= bound,
        Goal::AtLeast(bound) => median >= bound,
    });
    format!("{sign} {bound}{}", if is_met { "" } else { " MISSED" })
}

pub(crate) fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The quantile `share` (0 to 1), interpolated between neighbours; `None` without values.
pub(crate) fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * (sorted.len().checked_sub(1)? as f64);
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(low + (high - low) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_values() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(quantile(&[0.0, 100.0], 0.99), Some(99.0));
    }

    #[test]
    fn a_missed_goal_is_marked_and_peers_are_ratios() {
        let metric = Metric { name: "CPU", goal: Some(Goal::AtMost(0.2)), decimals: 2 };
        let series = |program: &str, values: &[f64]| Series {
            row: "1".to_owned(),
            metric,
            program: program.to_owned(),
            values: values.to_vec(),
            notes: vec!["n".to_owned(); 2],
        };
        let text = render(&[series("sexton", &[0.2, 0.1, 0.3]), series("peer", &[0.5])]);
        assert!(text.contains("| 1 | CPU | sexton | 0.20 | 0.10 to 0.30 | <= 0.2 |  | n |"), "{text}");
        assert!(text.contains("| 1 | CPU | peer | 0.50 | 0.50 to 0.50 |  | 2.5 | n |"), "{text}");
        assert!(render(&[series("sexton", &[0.3])]).contains("<= 0.2 MISSED"));
    }
}
