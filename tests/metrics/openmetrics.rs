//! A strict reader of the OpenMetrics 1.0 text format: what promtool and the reference parser refuse, it refuses.

use std::collections::{BTreeMap, BTreeSet};

/// A family and its samples.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// Families by name; panics with the line at the first offence.
pub(crate) fn parse(text: &str) -> BTreeMap<String, Family> {
    let body = text.strip_suffix("# EOF\n").expect("the last line is # EOF");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut current, mut said) = (String::new(), BTreeSet::new());
    for line in body.split_terminator('\n') {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, rest) =
                (words.next().unwrap(), words.next().expect(line), words.next().expect(line));
            assert!(is_name(name), "{line}");
            if name != current {
                assert!(!families.contains_key(name), "{name} is interleaved with other families");
                (current, said) = (name.to_owned(), BTreeSet::new());
                families.insert(current.clone(), Family::default());
            }
            assert!(said.insert(what.to_owned()), "twice: {line}");
            let family = families.get_mut(name).unwrap();
            assert!(family.samples.is_empty(), "metadata behind samples: {line}");
            match what {
                "TYPE" => family.kind = rest.to_owned(),
                "HELP" => assert!(!rest.is_empty() && !rest.ends_with('.'), "{line}"),
                "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "the unit is not in the name: {line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let sample = sample(line);
        let family = families.get_mut(&current).expect(line);
        assert!(said.contains("TYPE") && said.contains("HELP"), "{current}");
        let suffix =
            sample.name.strip_prefix(&current).unwrap_or_else(|| panic!("{line} stands in {current}"));
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("{current} is a {other}"),
        };
        assert!(suffixes.contains(&suffix), "{line}");
        assert!(sample.value.is_finite(), "{line}");
        assert!(family.kind != "counter" || sample.value >= 0.0, "{line}");
        let twice = |other: &Sample| (&other.name, &other.labels) == (&sample.name, &sample.labels);
        assert!(!family.samples.iter().any(twice), "twice: {line}");
        family.samples.push(sample);
    }
    families.values().filter(|family| family.kind == "histogram").for_each(histogram);
    families
}

/// Buckets ascend, end with +Inf, and agree with the count.
fn histogram(family: &Family) {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<&Sample>> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        labels.remove("le");
        series.entry(labels).or_default().push(sample);
    }
    for (labels, samples) in series {
        let only =
            |suffix: &str| samples.iter().find(|sample| sample.name.ends_with(suffix)).expect(suffix).value;
        let buckets: Vec<(f64, f64)> = samples
            .iter()
            .filter_map(|sample| {
                let bound = sample.labels.get("le")?;
                Some((if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() }, sample.value))
            })
            .collect();
        assert!(
            buckets.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1),
            "{labels:?}: {buckets:?}"
        );
        let (bound, count) = buckets.last().copied().expect("buckets");
        assert!(bound.is_infinite() && count == only("_count"), "{labels:?}: {buckets:?}");
        assert!(only("_sum") >= 0.0);
    }
}

fn is_name(name: &str) -> bool {
    name.chars()
        .enumerate()
        .all(|(place, c)| c.is_ascii_alphabetic() || c == '_' || (place > 0 && c.is_ascii_digit()))
        && !name.is_empty()
}

/// `name{label="value",...} value`
fn sample(line: &str) -> Sample {
    let name: String = line.chars().take_while(|c| !matches!(c, '{' | ' ')).collect();
    assert!(is_name(&name), "{line}");
    let mut rest = &line[name.len()..];
    let mut labels = BTreeMap::new();
    if let Some(behind) = rest.strip_prefix("{}") {
        rest = behind;
    } else if let Some(set) = rest.strip_prefix('{') {
        rest = set;
        loop {
            let (label, value) = rest.split_once("=\"").expect(line);
            assert!(is_name(label) && !label.starts_with("__"), "{line}");
            let (value, behind) = quoted(value).expect(line);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice: {line}");
            match behind.split_at(1) {
                (",", more) => rest = more,
                ("}", more) => break rest = more,
                _ => panic!("{line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').expect(line);
    assert!(!value.contains(' '), "a time stamp or an exemplar: {line}");
    Sample { name, labels, value: value.parse().expect(line) }
}

/// What stands before the closing quote, unescaped, and what stands behind.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (place, '"') => return Some((value, &text[place + 1..])),
            (_, '\\') => value.push(match characters.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                other => panic!("\\{other} is no escape"),
            }),
            (_, c) => value.push(c),
        }
    }
}
