//! Line charts as SVG, to stand in a page with its styles.

use std::fmt::{self, Display, Formatter};

use super::html::Escaped;

pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) lines: Vec<Line<'a>>,
}

pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 36.0;

/// More would be closer together than a person can see.
const MAX_POINTS: usize = 500;

/// Points that are shown as such, with their values.
const MAX_MARKS: usize = 60;

impl Chart<'_> {
    /// From zero, or below.
    fn range(&self, of: fn(&(f64, f64)) -> f64) -> (f64, f64) {
        let values = self
            .lines
            .iter()
            .flat_map(|line| line.points.iter().map(of));
        let (low, high) = values.fold((0.0_f64, 0.0_f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        (low, if high > low { high } else { low + 1.0 })
    }
}

impl Display for Chart<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let x = Axis::new(self.range(|point| point.0), LEFT, WIDTH - RIGHT);
        let y = Axis::new(self.range(|point| point.1), HEIGHT - BOTTOM, TOP);
        write!(f, r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">"#)?;
        write!(
            f,
            r#"<text class="title" x="{LEFT}" y="14">{}</text>"#,
            Escaped(self.title)
        )?;
        let (left, right, base) = (LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in y.ticks() {
            let at = y.at(tick);
            write!(f, r#"<path class="grid" d="M{left} {at:.1}H{right}"/>"#)?;
            write!(
                f,
                r#"<text class="end" x="{}" y="{:.1}">{}</text>"#,
                left - 6.0,
                at + 4.0,
                Tick(tick)
            )?;
        }
        for tick in x.ticks() {
            let at = x.at(tick);
            write!(
                f,
                r#"<text class="middle" x="{at:.1}" y="{}">{}</text>"#,
                base + 15.0,
                Tick(tick)
            )?;
        }
        write!(
            f,
            r#"<text class="middle" x="{}" y="{}">{}</text>"#,
            (left + right) / 2.0,
            HEIGHT - 4.0,
            Escaped(self.x)
        )?;
        let mut legend = LEFT;
        for (i, line) in self.lines.iter().enumerate() {
            line.write(f, i % 6, &x, &y)?;
            write!(
                f,
                r#"<text class="c{}" x="{legend}" y="28">{}</text>"#,
                i % 6,
                Escaped(line.name)
            )?;
            legend += 14.0 + 6.5 * line.name.chars().count() as f64;
        }
        f.write_str("</svg>")
    }
}

impl Line<'_> {
    fn write(&self, f: &mut Formatter<'_>, colour: usize, x: &Axis, y: &Axis) -> fmt::Result {
        let points = thinned(&self.points);
        write!(f, r#"<path class="line s{colour}" d=""#)?;
        for (i, point) in points.iter().enumerate() {
            let letter = if i == 0 { 'M' } else { 'L' };
            write!(f, "{letter}{:.1} {:.1}", x.at(point.0), y.at(point.1))?;
        }
        f.write_str(r#""/>"#)?;
        if points.len() > MAX_MARKS {
            return Ok(());
        }
        for point in points {
            write!(
                f,
                r#"<circle class="f{colour}" cx="{:.1}" cy="{:.1}" r="2.5"><title>{}: {}, {}</title></circle>"#,
                x.at(point.0),
                y.at(point.1),
                Escaped(self.name),
                Tick(point.0),
                Tick(point.1)
            )?;
        }
        Ok(())
    }
}

/// Means of neighbours, where there are too many.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(MAX_POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let len = chunk.len() as f64;
        let sum = chunk
            .iter()
            .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / len, sum.1 / len)
    };
    points.chunks(size).map(mean).collect()
}

/// From values to places.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new((low, high): (f64, f64), from: f64, to: f64) -> Axis {
        Axis {
            low,
            high,
            from,
            to,
        }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * (value - self.low) / (self.high - self.low)
    }

    /// At round values: 1, 2 or 5 times a power of ten apart.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let rough = (self.high - self.low) / 6.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(move |i| i as f64 * step)
    }
}

/// With as many digits as it needs.
struct Tick(f64);

impl Display for Tick {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            0.0 => 0,
            value if value >= 100.0 => 0,
            value if value >= 1.0 => 1,
            _ => 3,
        };
        let text = format!("{:.digits$}", self.0);
        let short = match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.'),
            false => &text,
        };
        f.write_str(short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (range, expected) in [
            ((0.0, 1.0), &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0][..]),
            ((0.0, 12.0), &[0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]),
            ((0.0, 950.0), &[0.0, 200.0, 400.0, 600.0, 800.0]),
        ] {
            let ticks: Vec<f64> = Axis::new(range, 0.0, 1.0).ticks().collect();
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-9;
            assert_eq!(ticks.len(), expected.len(), "{ticks:?}");
            assert!(ticks.iter().zip(expected).all(near), "{ticks:?}");
        }
    }

    #[test]
    fn places_are_where_values_are() {
        let axis = Axis::new((0.0, 10.0), 100.0, 0.0);
        assert_eq!(
            (axis.at(0.0), axis.at(5.0), axis.at(10.0)),
            (100.0, 50.0, 0.0)
        );
    }

    #[test]
    fn many_points_become_few_of_the_same_mean() {
        let points: Vec<(f64, f64)> = (0..10_000)
            .map(|i| (f64::from(i), f64::from(i % 2)))
            .collect();
        let thinned = thinned(&points);
        assert_eq!(thinned.len(), MAX_POINTS);
        assert!(thinned.iter().all(|point| point.1 == 0.5));
    }

    #[test]
    fn names_are_text_and_not_markup() {
        let chart = Chart {
            title: "<script>",
            x: "a & b",
            lines: vec![Line {
                name: "\"<b>",
                points: vec![(0.0, 1.0), (1.0, 2.0)],
            }],
        };
        let svg = chart.to_string();
        assert!(!svg.contains("<script>") && !svg.contains("<b>"), "{svg}");
        assert!(svg.contains("a &amp; b"), "{svg}");
    }
}
