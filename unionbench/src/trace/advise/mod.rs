//! What would help on a workload, and how much of its time by what was seen of
//! it. A saving is a sum of phases that were watched, each told with what it
//! rests on; where a phase was not watched there is a reason and no number.
//! Savings of different changes overlap and are not to be added up.

mod of_record;
mod of_trace;

pub use of_record::of_record;
pub use of_trace::Watcher;

use crate::unit::{LatencyUnit, so_many};

/// Copy-ups and what part of them a change would spare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// Copy-ups that the change concerns.
    pub n: u64,
    /// Those of which the phase was watched.
    pub n_known: u64,
    /// Those of these of which only the whole is known to be longer: their time
    /// is that of the whole copy-up.
    pub n_whole: u64,
    /// What the phase took in those, in the unit of the facts.
    pub time: u64,
}

/// What was seen of one union.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The mount, or the cell of a record.
    pub source: String,
    pub unit: LatencyUnit,
    /// Mount options in force.
    pub options: Vec<String>,
    /// Passes over the workload that the sums are of: the rounds of a record.
    pub n_passes: u64,
    pub n_copy_ups: u64,
    /// What all copy-ups took.
    pub copy_up_time: u64,
    /// Data and fsync of files that were copied up for a change of attributes.
    pub attributes: Result<Part, String>,
    /// Synchronising, within copy-ups.
    pub fsync: Result<Part, String>,
    /// Data that was copied byte by byte.
    pub copying: Result<Part, String>,
    /// Lookups by layer: cost of one layer more, layers passed, fit.
    pub lookups: Result<Lookups, String>,
    /// Directories below which things are copied up: what that took.
    pub places: Vec<(String, Part)>,
}

/// How lookups depend on the layer in which the name lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lookups {
    /// Of the medians against the layer, per layer.
    pub slope: f64,
    pub r_squared: f64,
    /// Layers below the topmost, summed over all lookups.
    pub n_passed: u64,
    pub n: u64,
    /// What all lookups took.
    pub time: u64,
}

/// One change and what it would save.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    pub change: String,
    /// Mount options that make the change, if options do.
    pub options: Vec<(&'static str, &'static str)>,
    /// In the unit of the facts.
    pub saving: u64,
    /// The time that it is a part of.
    pub of: u64,
    pub at_most: bool,
    /// How the saving was computed.
    pub basis: String,
    /// What one gives up for it.
    pub price: &'static str,
}

/// Everything that can be said.
#[derive(Debug, Clone, PartialEq)]
pub struct Findings {
    pub facts: Facts,
    /// Largest saving first.
    pub advice: Vec<Advice>,
    /// Changes of which nothing can be predicted, with the reason.
    pub not_judged: Vec<(&'static str, String)>,
}

/// Shares below which a place is not worth a volume.
const LEAST_SHARE: f64 = 0.2;

/// A line through fewer than this much of the variance is none.
const LEAST_FIT: f64 = 0.8;

/// What these facts support.
pub fn findings(facts: Facts) -> Findings {
    let mut found = Findings { advice: Vec::new(), not_judged: Vec::new(), facts: facts.clone() };
    metacopy(&facts, &mut found);
    volatile(&facts, &mut found);
    reflink(&facts, &mut found);
    squash(&facts, &mut found);
    volume(&facts, &mut found);
    let unseen = "a rename that fails with EXDEV, and the copy that programs make then, leave no copy-up to see";
    found.not_judged.push(("redirect_dir=on", unseen.to_owned()));
    found.advice.sort_by_key(|advice| std::cmp::Reverse(advice.saving));
    found
}

impl Facts {
    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
    }
}

/// Advice on a part of the copy-ups, or why there is none.
fn part(
    found: &mut Findings,
    name: &'static str,
    part: &Result<Part, String>,
    none: &str,
    make: impl FnOnce(&Part) -> Advice,
) {
    match part {
        Err(reason) => found.not_judged.push((name, reason.clone())),
        Ok(part) if part.n == 0 || part.time == 0 => found.not_judged.push((name, none.to_owned())),
        Ok(part) => found.advice.push(make(part)),
    }
}

fn watched(part: &Part) -> String {
    let copy_ups = so_many(part.n, "copy-up");
    let mut told = match part.n_known == part.n {
        true => copy_ups,
        false => format!("{} of {copy_ups}, the others were not watched", part.n_known),
    };
    if part.n_whole > 0 {
        let all = if part.n_whole == part.n_known {
            String::new()
        } else {
            format!(" of {}", part.n_whole)
        };
        told += &format!(
            " (the whole{all}: this daemon tells what it did, and not how long each part took)"
        );
    }
    told
}

fn metacopy(facts: &Facts, found: &mut Findings) {
    const NAME: &str = "metacopy=on";
    if facts.has(NAME) {
        return found.not_judged.push((NAME, "it is on".to_owned()));
    }
    if facts.has("userxattr") {
        return found.not_judged.push((NAME, "userxattr does not allow it".to_owned()));
    }
    let none = "no file was copied up for a change of attributes alone";
    part(found, NAME, &facts.attributes, none, |part| Advice {
        change: NAME.to_owned(),
        options: vec![("metacopy", "on"), ("redirect_dir", "on")],
        saving: part.time,
        of: facts.copy_up_time,
        at_most: true,
        basis: format!(
            "what data and fsync took in {}; the attribute that metacopy writes instead is not subtracted",
            watched(part)
        ),
        price: "a file's first write still copies its data; lower layers must stay as they are",
    });
}

fn volatile(facts: &Facts, found: &mut Findings) {
    const NAME: &str = "volatile";
    if facts.has(NAME) || facts.has("fsync=volatile") {
        return found.not_judged.push((NAME, "it is on".to_owned()));
    }
    let none = "no copy-up was synchronised";
    part(found, NAME, &facts.fsync, none, |part| Advice {
        change: NAME.to_owned(),
        options: vec![("volatile", "")],
        saving: part.time,
        of: facts.copy_up_time,
        at_most: true,
        basis: format!(
            "what fsync took in {}; what it wrote is written later, beside other work",
            watched(part)
        ),
        price: "after a crash the upper layer is lost; for containers that are thrown away",
    });
}

fn reflink(facts: &Facts, found: &mut Findings) {
    const NAME: &str = "a backing file system with reflinks (xfs, btrfs)";
    let none = "no data was copied byte by byte";
    part(found, NAME, &facts.copying, none, |part| Advice {
        change: NAME.to_owned(),
        options: Vec::new(),
        saving: part.time,
        of: facts.copy_up_time,
        at_most: true,
        basis: format!("what data took in {}, if a clone took nothing", watched(part)),
        price: "layers and upper directory move to another file system",
    });
}

fn squash(facts: &Facts, found: &mut Findings) {
    const NAME: &str = "squashing all layers into one";
    match &facts.lookups {
        Err(reason) => found.not_judged.push((NAME, reason.clone())),
        Ok(lookups) if lookups.slope <= 0.0 || lookups.r_squared < LEAST_FIT => {
            let reason = format!(
                "the medians of lookups do not grow by layer (R² {:.2})",
                lookups.r_squared
            );
            found.not_judged.push((NAME, reason));
        }
        Ok(lookups) => found.advice.push(Advice {
            change: NAME.to_owned(),
            options: Vec::new(),
            saving: ((lookups.slope * lookups.n_passed as f64) as u64).min(lookups.time),
            of: lookups.time,
            at_most: true,
            basis: format!(
                "{} lookups passed {} layers at {:.0} {} each, by a line through the medians of each layer (R² {:.2})",
                lookups.n,
                lookups.n_passed,
                lookups.slope,
                facts.unit.suffix(),
                lookups.r_squared
            ),
            price: "images no longer share layers on disk and in the page cache",
        }),
    }
}

fn volume(facts: &Facts, found: &mut Findings) {
    let worth = |part: &Part| part.time as f64 >= LEAST_SHARE * facts.copy_up_time.max(1) as f64;
    let places: Vec<_> = facts.places.iter().filter(|(_, part)| worth(part)).collect();
    if places.is_empty() {
        let reason = match facts.places.is_empty() {
            true => "it is not known where things are copied up".to_owned(),
            false => "copy-ups are spread: no directory has a fifth of their time".to_owned(),
        };
        found.not_judged.push(("a volume", reason));
    }
    for (path, part) in places {
        found.advice.push(Advice {
            change: format!("a volume at {path}"),
            options: Vec::new(),
            saving: part.time,
            of: facts.copy_up_time,
            at_most: false,
            basis: format!("what {} below it took: a volume has none", watched(part)),
            price: "what the image holds there must be copied into the volume once",
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let part = Part { n: 10, n_known: 10, n_whole: 0, time: 600 };
        Facts {
            source: "/merged".into(),
            unit: LatencyUnit::Nanoseconds,
            options: Vec::new(),
            n_passes: 1,
            n_copy_ups: 12,
            copy_up_time: 1000,
            attributes: Ok(part),
            fsync: Ok(Part { time: 500, ..part }),
            copying: Err("phases were not watched".into()),
            lookups: Err("no lookups were traced".into()),
            places: vec![("/a".into(), Part { time: 900, ..part }), ("/b".into(), part.small())],
        }
    }

    impl Part {
        fn small(self) -> Self {
            Self { time: 10, ..self }
        }
    }

    #[test]
    fn savings_come_with_the_largest_first() {
        let found = findings(facts());
        let changes: Vec<_> = found.advice.iter().map(|a| (a.change.as_str(), a.saving)).collect();
        assert_eq!(changes, [("a volume at /a", 900), ("metacopy=on", 600), ("volatile", 500)]);
    }

    #[test]
    fn nothing_is_said_of_what_was_not_watched() {
        let found = findings(facts());
        let reasons: Vec<_> = found.not_judged.iter().map(|(name, _)| *name).collect();
        assert_eq!(reasons.len(), 3, "{reasons:?}");
        let on = findings(Facts { options: vec!["metacopy=on".into()], ..facts() });
        assert!(on.advice.iter().all(|a| a.change != "metacopy=on"));
        let none = findings(Facts { attributes: Ok(Part::default()), ..facts() });
        assert!(none.advice.iter().all(|a| a.change != "metacopy=on"));
    }

    #[test]
    fn layers_are_squashed_only_where_they_cost() {
        let lookups = Lookups { slope: 100.0, r_squared: 0.99, n_passed: 50, n: 20, time: 9000 };
        let found = findings(Facts { lookups: Ok(lookups), ..facts() });
        assert!(found.advice.iter().any(|a| a.saving == 5000 && a.at_most));
        let flat = Lookups { r_squared: 0.3, ..lookups };
        let found = findings(Facts { lookups: Ok(flat), ..facts() });
        assert!(found.advice.iter().all(|a| !a.change.starts_with("squashing")));
    }
}
