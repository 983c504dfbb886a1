//! Sends numbered UDP datagrams with DF from one network namespace and counts in another what arrives whole.
//!
//! `datagrams FROM TO ADDRESS:PORT COUNT SIZE RATE`: FROM and TO are files below /run/netns, SIZE is the payload in
//! bytes, RATE datagrams per second. Prints "ARRIVED of COUNT", and what else was wrong.

use std::env;
use std::path::Path;

use anyhow::{Context, Result, bail};
use xdpfrag::lab::Namespace;
use xdpfrag::lab::traffic::udp::Flow;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [from, to, address, count, size, rate] = arguments.as_slice() else {
        bail!("usage: datagrams FROM TO ADDRESS:PORT COUNT SIZE RATE");
    };
    let number = |text: &String| text.parse::<usize>().with_context(|| format!("'{text}' is no number"));
    let flow = Flow {
        to: address.parse().with_context(|| format!("'{address}' is no ADDRESS:PORT"))?,
        sizes: vec![number(size)?; number(count)?],
        rate: number(rate)?.try_into()?,
        // The kernel would return "too big" from connected sockets (udp(7)): an appliance that is deaf has no such.
        connected: false,
        ..Flow::new(([0, 0, 0, 0], 0), Vec::new())
    };
    let [from, to] = [("the sender's", from), ("the receiver's", to)]
        .map(|(name, path)| Namespace::open(name, Path::new(path)));
    let tally = flow.run(&from?, &to?)?;
    let wrong = match (tally.corrupt, tally.duplicates) {
        (0, 0) => String::new(),
        (corrupt, duplicates) => format!(", {corrupt} corrupt, {duplicates} twice"),
    };
    println!("{} of {}{wrong}", tally.intact, tally.sent);
    Ok(())
}
