/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the BPF programs and the Rust side share: the one header for both.
 * src/xdp/layout.rs mirrors the structs and src/packet/reason.rs the two
 * enums; tests/interface.rs compares names, values and sizes.
 */
#ifndef XDPFRAG_INTF_H
#define XDPFRAG_INTF_H

/* Why a frame was treated as it was: exactly one per frame and program. */
enum xf_reason {
	/* forwarded */
	XF_FITS,	  /* fits the SA MTU; DF and MSS edited where the policy says so */
	XF_EDITED,	  /* oversize: DF off, fresh identification; the kernel fragments it where it leaves */
	XF_FRAGMENTED,	  /* oversize: handed back as fragments (worker) */
	XF_HANDED_WHOLE,  /* oversize UDP: handed back whole, for the kernel to fragment before it encrypts (worker) */
	XF_RESEGMENTED,	  /* oversize TCP: handed back as several segments (worker) */
	/* oversize TCP that is not to be resegmented (worker): IPv4 is fragmented, IPv6 passed */
	XF_KEPT_FLAGS,	  /* SYN, RST or URG */
	XF_KEPT_SIGNED,	  /* TCP-MD5 or TCP-AO: a new segment would need a new signature */
	XF_KEPT_CHECKSUM, /* wrong TCP checksum: resegmenting would launder it */
	/* redirected to the worker of the queue (XDP program) */
	XF_OVERSIZE,	  /* longer than the SA MTU */
	XF_STICKY,	  /* its flow sent an oversize frame a moment ago: keeps its order */
	XF_ALL,		  /* --redirect all */
	XF_UNFINISHED,	  /* SYN to clamp whose TCP checksum was left to hardware (CHECKSUM_PARTIAL) */
	XF_LATE,	  /* oversize TCP that the program behind GRO made fit */
	/* passed to the kernel untouched */
	XF_NOT_IP,	  /* ARP, LLDP, more than two VLAN tags ... */
	XF_GROUP,	  /* destination MAC or address is multicast or broadcast */
	XF_MALFORMED,	  /* header cut short or inconsistent */
	XF_OUT_OF_SCOPE,  /* no --dst prefix holds the destination */
	XF_LOCAL,	  /* to an address of this machine */
	XF_SUPER_PACKET,  /* longer than the LAN interface's MTU: merged by LRO or GRO */
	XF_TOO_LONG,	  /* longer than a worker can take */
	XF_KEPT_WHOLE,	  /* oversize: in fragments it would miss a policy, rule or route that asks for ports */
	XF_DF_KEPT,	  /* oversize with DF under --df keep: the kernel answers with ICMP 3/4 */
	XF_IPV6_TOO_BIG,  /* oversize IPv6 that is not resegmented: the kernel answers with ICMPv6 2 */
	XF_WARNED,	  /* oversize under --force deaf, from a host not known to be deaf: the kernel answers */
	XF_NO_WORKER,	  /* no live worker serves the queue */
	/* dropped (worker) */
	XF_HANDBACK_FULL, /* the hand-back has no buffer left */
	XF_HANDBACK_ERROR,/* the kernel refused the hand-back */
	XF_TRUNCATED,	  /* a multi-buffer frame whose end never came */
	XF_REASON_MAX,
};

/* What was changed in a frame: any number per frame. */
enum xf_edit {
	XF_EDIT_DF,	  /* DF cleared */
	XF_EDIT_MSS,	  /* MSS option lowered */
	XF_EDIT_ID,	  /* fresh identification for a datagram that had DF */
	XF_EDIT_CHECKSUM, /* CHECKSUM_PARTIAL finished in software */
	XF_EDIT_NOTIFIED, /* ICMP 3/4 sent to the source (worker, --notify) */
	XF_EDIT_MAX,
};

/* What the program behind GRO (--redirect late) did with a packet. */
enum xf_late {
	XF_LATE_LOWERED,    /* TCP, merged: gso_size lowered */
	XF_LATE_CUT,	    /* TCP, not merged: cut into two segments */
	XF_LATE_CHECKSUM,   /* TCP with a wrong checksum: left alone */
	XF_LATE_REFUSED,    /* could not be changed: left alone */
	XF_LATE_FOLLOWED,   /* behind a piece of the same flow: through the backlog as well */
	XF_LATE_RETURNED,   /* came back from the backlog */
	XF_LATE_LOST,	    /* dropped half changed for lack of memory, or dropped by a full backlog */
	XF_LATE_MAX,
};

/* Per-CPU counters of the XDP program and of the clamp program. */
struct xf_counters {
	__u64 reason[XF_REASON_MAX];
	__u64 edit[XF_EDIT_MAX];
};

/* Key of the `routes` longest-prefix map. */
struct xf_prefix4 {
	__u32 prefixlen;
	__u8 addr[4];
};

/*
 * By which way an oversize IPv4 packet is made to fit; src/packet/way.rs has the same. TCP that is cut into
 * segments (--tcp resegment) goes by none of them.
 */
enum xf_way {
	XF_WAY_FRAGMENTS, /* a worker cuts it into fragments */
	XF_WAY_EDIT,	  /* DF off, fresh identification: the kernel fragments it where it leaves */
	XF_WAY_GSO,	  /* UDP: a worker hands it back whole, the kernel fragments it before it encrypts */
	XF_WAY_PASS,	  /* by any other way it would miss a policy, a rule or a route */
	XF_WAY_MAX,
};

#define XF_ROUTE_LOCAL 1 /* an address of this machine: pass */
#define XF_ROUTE_PASS  2 /* a hole in the prefix around it: pass */

/* Where the ways of a route stand in its flags, two bits each: of whole UDP datagrams, and of other packets. */
#define XF_WAY_UDP_SHIFT   2
#define XF_WAY_OTHER_SHIFT 4

/* Key of the `routes6` longest-prefix map. */
struct xf_prefix6 {
	__u32 prefixlen;
	__u8 addr[16];
};

/*
 * Keys of the `sources` and `sources6` longest-prefix maps. The selector comes first and counts in the prefix
 * length (32 bits more), so that each has prefixes of its own.
 */
struct xf_source4 {
	__u32 prefixlen;
	__u32 selector;
	__u8 addr[4];
};

struct xf_source6 {
	__u32 prefixlen;
	__u32 selector;
	__u8 addr[16];
};

/* Value of the `routes` and `sources` maps: what holds for packets to this prefix, and from this prefix. */
struct xf_route {
	__u16 mtu;	/* SA MTU in bytes, IP header included */
	__u16 mss4;	/* largest MSS for TCP over IPv4; 0: leave it alone */
	__u16 mss6;	/* largest MSS for TCP over IPv6; 0: leave it alone */
	__u16 flags;	/* XF_ROUTE_*, XF_WAY_*_SHIFT */
	__u32 selector; /* in `routes`: `sources` under this number says what holds; 0: the same for every source */
};

#define XF_META_MAGIC 0x78667261u

/*
 * Metadata in front of every redirected frame. The magic is last, next to the
 * frame, so that a driver without metadata support is noticed.
 */
struct xf_meta {
	__u64 rx_ns; /* bpf_ktime_get_ns(), CLOCK_MONOTONIC */
	__u16 mtu;   /* of the route that matched */
	__u16 mss4;
	__u16 mss6;
	__u16 flags;
	__u16 pad[2];
	__u32 magic; /* XF_META_MAGIC */
};

/* Value of the `heartbeats` map: a cache line per worker, so that workers do not share one. */
struct xf_heartbeat {
	__u64 ns;	  /* CLOCK_MONOTONIC of the worker's last turn; 0: none yet */
	/* Of the XDP program: */
	__u64 missed;	  /* the `ns` that it found too old for the first time */
	__u64 missed_at;  /* at this time */
	/* Of the worker: all frames with no later time stamp have been handed back; 0: it does not know. */
	__u64 served_ns;
	__u64 pad[4];
};

/* Key of the `deaf` map: an IPv6 address, or an IPv4 address mapped to one (RFC 4291 section 2.5.5.2). */
struct xf_address {
	__u8 byte[16];
};

/* Key of the `warned` map, whose value is when the kernel last answered, CLOCK_MONOTONIC ns. */
struct xf_pair {
	struct xf_address source;
	struct xf_address destination;
};

/* Value of the `deaf` map: a host that went on sending oversize packets after the kernel's answer. */
struct xf_deaf {
	__u64 since_ns; /* CLOCK_MONOTONIC */
	__u64 last_ns;	/* of its last oversize packet */
	__u64 frames;	/* oversize packets since */
};

enum xf_df { XF_DF_CLEAR, XF_DF_OVERSIZE, XF_DF_KEEP };

/* Settled before the programs are loaded (.rodata). */
struct xf_config {
	__u64 stall_ns;	   /* a heartbeat older than this: no live worker */
	__u64 sticky_ns;   /* silence after which a flow no longer follows an oversize frame; 0: it never does */
	__u64 flow_seed;   /* keys the flow hash, so that a sender cannot aim at a slot */
	/* --force deaf: an oversize packet this long after the kernel's answer shows that its host is deaf */
	__u64 grace_ns;	   /* at least: the answer has arrived, and so has what was in flight */
	__u64 window_ns;   /* at most: a path MTU expires; 0: --force always */
	__u32 df;	   /* enum xf_df */
	__u32 redirect_all;
	__u32 resegment;   /* --tcp resegment */
	__s32 sticky_ticks; /* ticks of the kernel in which sticky_ns are over for sure */
	__u32 ident_bits;  /* --id-partition: identifications are counted above these bits, */
	__u32 ident_part;  /* which hold this */
};

/* What the workers need not see: */
#define XF_LEAVE_TCP	 1 /* oversize TCP: the program behind GRO has it cut by segments */
#define XF_LEAVE_WHOLE	 2 /* oversize packets that go by XF_WAY_EDIT */
#define XF_LEAVE_FITTING 4 /* what is certain not to need one: the program behind GRO edits and counts it */
#define XF_LEAVE_OVERSIZE 16 /* the two above, of what is oversize: XDP passes it unread, too */
#define XF_LEAVE_MARKED	 8 /* the program behind GRO is attached: what XDP has read is marked */

#define XF_MARK 0x78667231 /* see mark.h */

/* What user space may change while the XDP program runs. */
struct xf_live {
	__u32 lan_mtu;	 /* of the LAN interface */
	__u32 generic;	 /* attached in generic mode */
	__u32 late;	 /* XF_LEAVE_* */
	/* Bytes, Ethernet header included: */
	__u32 max_frame; /* longest frame a worker can receive */
	__u32 max_whole; /* longest frame it can hand back as it is */
	__u32 fitting;	 /* frames up to this length need no worker, whatever route they go by */
};

/* Entry of the `flows` map, half of one of `pairs`: when a packet last went to the worker, and to that of which queue. */
#define XF_STAMP(ns, queue) ((__u64)(ns) << 8 | (queue))
#define XF_STAMP_NS(stamp)  ((stamp) & ~0xffull) /* CLOCK_MONOTONIC ns << 8 */
#define XF_STAMP_QUEUE	    0xffull		     /* this itself for queues from there on, and for any */

/* Value of the `under_way` map: pieces of a flow on their way through a CPU's backlog, behind GRO. */
struct xf_under_way {
	__u64 last; /* tick of the kernel in which the last one set out */
	__u32 sent; /* how many have set out */
	__u32 back; /* and the number of the one that came back last */
};

#define XF_PIECE_MAX 4096 /* data in a piece that is cut behind GRO, at most */

/* What the XDP program shares with user space, which has it mapped. */
struct xf_shared {
	__u64 generation; /* of the routes: user space counts it up behind each change of them */
	__u64 redirects;  /* tick of the kernel, its lower half, in which a flow last went to a worker; 0: never; or XF_HELD */
};

#define XF_HELD 0x4000000000000000u /* user space has made every flow one that went to a worker */

#define XF_FLOW_SLOTS 65536 /* power of two */
#define XF_PAIR_SLOTS 16384 /* power of two */
#define XF_IDENTS     2048  /* counters of identifications, power of two */
#define XF_DEAF_HOSTS 4096  /* entries of `deaf` and of `warned` */
#define XF_ROUTES     65536 /* entries of each map of routes and of sources, at most */

#endif
