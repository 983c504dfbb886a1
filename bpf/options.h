/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The option lists behind IPv4 and TCP headers. Included by parse.h.
 */
#ifndef XDPFRAG_OPTIONS_H
#define XDPFRAG_OPTIONS_H

#define XF_TCP_OPT_MSS	   2
#define XF_TCP_OPT_MSS_LEN 4
/* TCP-AO, whose code covers the other options, and its least length (RFC 5925 section 2.2). */
#define XF_TCP_OPT_AO	   29
#define XF_TCP_OPT_AO_LEN  4

/* The option lists of IPv4 and TCP have one syntax (RFC 791 section 3.1, RFC 9293 section 3.1). */
#define XF_OPT_END 0
#define XF_OPT_NOP 1
#define XF_OPT_MAX 40 /* 60-byte header less its fixed part */

/* An option list, copied out of the packet. */
struct xf_options {
	__u8 byte[XF_OPT_MAX + 4]; /* the length byte of an option at the very end is read */
	__u32 len;		   /* bytes in use: 4..40 */
	__u32 at;		   /* where a walk stands, 0 before it */
};

/*
 * A walk that looks for MSS options, all zero before it. In memory, where the
 * verifier does not follow what a global function has: one option is like the
 * other to it, and it need not try every way through the list.
 */
struct xf_walk {
	__u32 at;	/* where it stands */
	__u32 delta;	/* what lowering changes in the checksum */
	__u32 found;	/* options above the limit: 10 at most, each of 4 bytes, */
	__u8 place[16]; /* and where they stand */
};

/* The length of a list as a helper's size argument, with bounds that the verifier sees. */
static __always_inline __u32 xf_options_len(const struct xf_options *options)
{
	__u32 len = options->len;

	barrier_var(len);
	if (len < 4)
		return 4;
	return len > XF_OPT_MAX ? XF_OPT_MAX : len;
}

/* What the checksum changes by when the option at this offset has `limit` for `mss`; at an odd one its bytes straddle two words. */
static __always_inline __u32 xf_mss_delta(__u32 at, __u16 mss, __u16 limit)
{
	__u16 old = at & 1 ? mss : bpf_htons(mss), new = at & 1 ? limit : bpf_htons(limit);

	return (__u16)~old + new;
}

/*
 * A step of a walk along a list of `len` bytes: over the option at walk->at, which
 * lies within it. False at its end. As in tcp_parse_options() that is at a malformed
 * option, too, and an MSS option of another length than 4 is none. Where TCP-AO
 * covers the list nothing is found. src/packet/mss.rs does the same.
 */
static __always_inline bool xf_find_mss(const __u8 *option, __u32 len, __u16 limit, volatile struct xf_walk *walk)
{
	__u32 i = walk->at, n = walk->found;

	if (option[0] <= XF_OPT_NOP) {
		walk->at = i + 1;
		return option[0] != XF_OPT_END;
	}
	if (option[1] < 2)
		return false;
	if (option[0] == XF_TCP_OPT_AO && option[1] >= XF_TCP_OPT_AO_LEN && i + option[1] <= len) {
		walk->found = 0;
		return false;
	}
	walk->at = i + option[1];
	if (option[0] == XF_TCP_OPT_MSS && option[1] == XF_TCP_OPT_MSS_LEN && (option[2] << 8 | option[3]) > limit) {
		walk->place[n & (sizeof(walk->place) - 1)] = i;
		walk->found = n + 1;
	}
	return true;
}

/* Takes note of what lowering an option that was found changes; it stands at offset `at` of its list. */
static __always_inline void xf_lower_mss(const __u8 *option, __u32 at, __u16 limit, volatile struct xf_walk *walk)
{
	__u16 mss = option[2] << 8 | option[3];

	walk->delta += xf_mss_delta(at, mss, limit);
}

/*
 * 1 if the list can be walked to its end: no length below 2 or beyond the list.
 * Global: the verifier goes through it once and by itself, hence the check for NULL.
 */
__noinline int xf_options_valid(struct xf_options *options)
{
	volatile __u32 *at;

	if (!options)
		return 0;
	at = &options->at;
	for (int n = 0; n < XF_OPT_MAX; n++) {
		__u32 i = *at;
		__u8 *option;

		if (i >= XF_OPT_MAX || i >= options->len)
			return 1;
		option = &options->byte[i];
		if (option[0] == XF_OPT_END)
			return 1;
		if (option[0] == XF_OPT_NOP) {
			*at = i + 1;
			continue;
		}
		if (i + 1 >= options->len || option[1] < 2 || i + option[1] > options->len)
			return 0;
		*at = i + option[1];
	}
	return 1;
}

#endif
