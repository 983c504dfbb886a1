//! The checker of `make count`: what it lets pass, what it does not, and what it says.

#[path = "../benches/count/budget.rs"]
mod budget;

use std::collections::BTreeMap;
use std::path::Path;

use budget::{Budget, Cost, Finding, Functions};

const TEXT: &str = "# A comment.
release 6.12.1-test
row policy/nothing/udp1400 20000 1
  sender udp_sendmsg 900
  esp aesni_ctr 12000
row policy/workers-adaptive/udp1500 90000 25
  daemon xdpfrag::worker::spin::Spin::pause 50000
";

fn functions(of: &[(&str, f64)]) -> Functions {
    of.iter().map(|(function, instructions)| ((*function).to_owned(), *instructions)).collect()
}

/// What the checker says of one row that costs `instructions`.
fn judged(row: &str, instructions: f64, of: &[(&str, f64)]) -> Vec<Finding> {
    let cost = Cost { instructions, functions: functions(of) };
    Budget::parse(TEXT).unwrap().check(&BTreeMap::from([(row.to_owned(), cost)]))
}

const FITS: &str = "policy/nothing/udp1400";

#[test]
fn the_same_figure_passes() {
    assert_eq!(judged(FITS, 20000.0, &[]), []);
    assert_eq!(judged(FITS, 20190.0, &[]), [], "0.95 % more");
    assert_eq!(judged(FITS, 19810.0, &[]), [], "0.95 % less");
}

#[test]
fn two_per_cent_more_fail_and_name_the_function() {
    let functions =
        [("sender udp_sendmsg", 900.0), ("esp aesni_ctr", 12000.0), ("gateway1 ip_forward", 400.0)];
    let found = judged(FITS, 20400.0, &functions);
    let [Finding::Above(said)] = &found[..] else { panic!("{found:?}") };
    assert!(said.contains("20400 instructions, +2.00 % of its budget of 20000 (bound 1 %)"), "{said}");
    assert!(said.contains("+400 or less gateway1 ip_forward"), "{said}");
    assert!(!said.contains("aesni_ctr"), "what did not change is not named: {said}");
}

#[test]
fn what_grew_and_what_shrank_is_named_with_both_figures() {
    let found = judged(FITS, 21000.0, &[("sender udp_sendmsg", 850.0), ("esp aesni_ctr", 13050.0)]);
    let [Finding::Above(said)] = &found[..] else { panic!("{found:?}") };
    let grown = said.find("+1050 esp aesni_ctr (12000 to 13050)").expect(said);
    let shrunk = said.find("-50 sender udp_sendmsg (900 to 850)").expect(said);
    assert!(grown < shrunk, "the greatest change comes first: {said}");
}

#[test]
fn a_function_that_is_gone_is_named() {
    let found = judged(FITS, 21000.0, &[("esp aesni_ctr", 12000.0)]);
    let [Finding::Above(said)] = &found[..] else { panic!("{found:?}") };
    assert!(said.contains("-900 sender udp_sendmsg (900 to 0)"), "{said}");
}

#[test]
fn less_than_the_budget_is_said_and_no_failure() {
    let found = judged(FITS, 19000.0, &[]);
    assert!(matches!(&found[..], [Finding::Below(said)] if said.contains("-5.00 %")), "{found:?}");
}

#[test]
fn a_row_that_spins_has_a_bound_of_its_own() {
    let row = "policy/workers-adaptive/udp1500";
    assert_eq!(judged(row, 110_000.0, &[]), []);
    assert!(matches!(&judged(row, 115_000.0, &[])[..], [Finding::Above(_)]));
}

#[test]
fn a_row_without_a_budget_is_a_finding() {
    let found = judged("policy/nothing/new", 1.0, &[]);
    assert!(
        matches!(&found[..], [Finding::Unknown(said)] if said.contains("policy/nothing/new")),
        "{found:?}"
    );
}

#[test]
fn a_budget_is_read_as_it_was_written() {
    let budget = Budget::parse(TEXT).unwrap();
    assert_eq!(budget.rows.len(), 2);
    assert_eq!(Budget::parse(&budget.text("One line.\nAnother.")).unwrap(), budget);
}

#[test]
fn a_line_that_is_none_is_named() {
    for (text, line) in [
        ("row a 12 1\nrow b x 1\n", "line 2: row b x 1"),
        ("  esp f 1\n", "line 1"),
        ("\n\nwhat\n", "line 3: what"),
    ] {
        let error = format!("{:#}", Budget::parse(text).unwrap_err());
        assert!(error.contains(line), "{error}");
    }
}

/// Every 2 % of regression in every row of the tree's own budgets is found, but in rows that have a wider bound.
#[test]
fn the_budgets_of_the_tree_find_two_per_cent() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/count/budgets");
    let mut rows = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let budget = Budget::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for (row, line) in &budget.rows {
            let worse =
                Cost { instructions: line.cost.instructions * 1.02, functions: line.cost.functions.clone() };
            let found = budget.check(&BTreeMap::from([(row.clone(), worse)]));
            assert_eq!(
                matches!(&found[..], [Finding::Above(_)]),
                line.bound < 2.0,
                "{}: {row}",
                path.display()
            );
            rows += 1;
        }
    }
    assert!(rows > 0, "no budget is kept");
}
