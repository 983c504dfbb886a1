//! What `--help` and the manual page say below the flags; in lines of 71 columns, which manual pages have.

/// Of `xdpfrag` itself.
pub(super) const XDPFRAG: &str = "\
EXIT STATUS
  0  ended as asked
  1  failed while running
  2  wrong usage, configuration or input file
  3  this machine or interface cannot do it
  4  `check`: it can be done, with warnings

FILES
  /etc/xdpfrag.toml   settings of the service (`run --config`)
  @xdpfrag/INTERFACE  abstract Unix socket of a running instance, for
                      `stats`, `capture`, `reload`, `run --replace`:
                      in its network namespace, for root and its user

SIGNALS
  Those of `run`: SIGTERM and SIGINT end it, SIGHUP has it read the
  file of --config again.";

/// Of `xdpfrag run`.
pub(super) const RUN: &str = "\
EXIT STATUS
  0  ended by a signal or by another instance's --replace
  1  failed while running: an interface or all of its workers are gone
  2  wrong usage or configuration file
  3  this machine or interface cannot do it, or another program is in
     the way

SIGNALS
  SIGTERM, SIGINT  hand back what the workers hold, leave the
                   interfaces as they were, print the summary, end
  SIGHUP           read the file of --config again, as `xdpfrag reload`,
                   which also says how that went; a file that is wrong
                   or asks for a restart is refused in the log, and all
                   stays as it was
  SIGKILL          the kernel detaches the programs, and traffic goes
                   on; before Linux 6.6 `xdpfrag detach` removes the
                   egress filter

FILES
  /etc/xdpfrag.toml   where the service has its settings
  @xdpfrag/INTERFACE  abstract Unix socket: answers root and this user";

/// Of `xdpfrag check`.
pub(super) const CHECK: &str = "\
Every other flag of `run` is accepted, too: its command line can be
judged as it is. That an instance serves the interface is as it should
be. Nothing is changed.

EXIT STATUS (and `verdict` of --json)
  0  go: `run` starts, and nothing stands in its way
  2  wrong usage or configuration file
  3  no: `run` would refuse, see the findings marked fatal
  4  warnings: `run` starts, but see the findings marked warning";
