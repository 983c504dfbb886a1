use super::*;

fn parse(text: &str) -> Result<ConfigFile, FileError> {
    ConfigFile::parse(Path::new("lan.toml"), text)
}

fn arguments(text: &str) -> Vec<String> {
    parse(text).unwrap().arguments().collect()
}

#[test]
fn settings_become_the_flags_of_the_same_name() {
    let text = "iface = ['eth1', 'eth2']\nmtu = 1422 # of the SA\ndst = [\n  '10.0.0.0/8=1400',\n  '2001:db8::/32',\n]\n\
                notify = true\nqueues = '0,2-3'\nsticky = 1_000\nzero-copy = \"off\"\n";
    assert_eq!(
        arguments(text),
        [
            "--iface=eth1",
            "--iface=eth2",
            "--mtu=1422",
            "--dst=10.0.0.0/8=1400",
            "--dst=2001:db8::/32",
            "--notify",
            "--queues=0,2-3",
            "--sticky=1000",
            "--zero-copy=off"
        ]
    );
    assert_eq!(arguments("notify = false\niface = 'eth1'"), ["--iface=eth1"]);
    assert_eq!(arguments(""), [""; 0]);
}

#[test]
fn every_flag_but_those_about_output_is_a_setting() {
    let run = RunArgs::augment_args(Command::new("run"));
    for name in run.get_arguments().filter_map(Arg::get_long) {
        assert_eq!(find(&run, name).is_none(), NO_SETTINGS.contains(&name), "{name}");
    }
}

#[track_caller]
fn refused(text: &str, place: (usize, usize), parts: &[&str]) {
    let error = parse(text).unwrap_err();
    assert_eq!(error.place.map(|place| (place.line, place.column)), Some(place), "{error}");
    let message = error.to_string();
    assert!(
        message.starts_with(&format!("lan.toml:{}:{}: ", place.0, place.1)) && !message.contains('\n'),
        "{message}"
    );
    for part in parts {
        assert!(message.contains(part), "'{part}' is missing in: {message}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_the_remedy() {
    refused("iface = 'eth1'\nmtu = 67\n", (2, 7), &["mtu = '67'", "RFC 791", "1422"]);
    refused("dst = ['10.0.0.0/8',\n  '10.1.2.3/16']", (2, 3), &["10.1.0.0/16"]);
    refused("\n\ndf = 'never'", (3, 6), &["clear, oversize, keep"]);
    refused("stall = 5", (1, 9), &["stall", "10..=60000"]);
    refused("notfy = true", (1, 1), &["notfy", "did you mean 'notify'"]);
    refused("frobnicate = 1", (1, 1), &["frobnicate", "iface, ", "mtu"]);
    refused("config = 'other.toml'", (1, 1), &["no setting 'config'"]);
    refused("notify = 'yes'", (1, 10), &["true or false"]);
    refused("mtu = [1422, 1400]", (1, 7), &["one value"]);
    refused("mtu = 1422.5", (1, 7), &["decimal"]);
    refused("[eth1]\nmtu = 1422", (1, 2), &["no setting 'eth1'"]);
    refused("mtu = 1422\nmtu = 1400", (2, 1), &["duplicate"]);
    refused("mtu = ", (1, 7), &[]);
    // Columns count characters, not bytes.
    refused("df = 'é' 'x'", (1, 10), &[]);
}

#[test]
fn the_command_line_wins() {
    let file = parse("iface = ['eth1', 'eth2']\nmtu = 1422").unwrap().overridden(|flag| flag == "iface");
    assert_eq!(file.arguments().collect::<Vec<_>>(), ["--mtu=1422"]);
}

#[test]
fn settings_that_do_not_go_together_are_found() {
    let file = parse("dst = ['10.0.0.0/8',\n'10.0.0.0/8=1400']\nredirect = 'all'\nmode = 'generic'").unwrap();
    let blamed = file.blame(&ConfigError::DuplicatePrefix("10.0.0.0/8".parse().unwrap()));
    assert_eq!(blamed.place, Some(Place { line: 2, column: 1 }), "{blamed}");
    assert_eq!(file.blame(&ConfigError::RedirectAllGeneric).place, Some(Place { line: 3, column: 12 }));
    assert_eq!(file.blame(&ConfigError::DuplicateInterface("eth1".into())).place, None);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = ConfigFile::read(Path::new("/no/such/file.toml")).unwrap_err();
    assert!(error.to_string().starts_with("/no/such/file.toml: cannot be read: "), "{error}");
}
