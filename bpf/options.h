/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The option lists behind IPv4 and TCP headers. Included by parse.h.
 */
#ifndef XDPFRAG_OPTIONS_H
#define XDPFRAG_OPTIONS_H

#define XF_TCP_OPT_MSS	   2
#define XF_TCP_OPT_MSS_LEN 4

/* The option lists of IPv4 and TCP have one syntax (RFC 791 section 3.1, RFC 9293 section 3.1). */
#define XF_OPT_END 0
#define XF_OPT_NOP 1
#define XF_OPT_MAX 40 /* 60-byte header less its fixed part */

/* An option list, copied out of the packet. */
struct xf_options {
	__u8 byte[XF_OPT_MAX + 4]; /* the length byte of an option at the very end is read */
	__u32 len;		   /* bytes in use: 4..40 */
	/* Of a walk, all zero before it: where it stands, and what it changes in the checksum. */
	__u32 at;
	__u32 delta;
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
 * A step of a walk that lowers every MSS option above `limit`: over the option at
 * `at`, which lies within a list. False at its end. As in tcp_parse_options() that
 * is at a malformed option, too, and an MSS option of another length than 4 is none.
 */
static __always_inline bool xf_clamp_option(__u8 *option, __u16 limit, volatile __u32 *at, volatile __u32 *delta)
{
	__u32 i = *at;
	__u16 mss;

	if (option[0] == XF_OPT_NOP) {
		*at = i + 1;
		return true;
	}
	if (option[0] == XF_OPT_END || option[1] < 2)
		return false;
	*at = i + option[1];
	if (option[0] != XF_TCP_OPT_MSS || option[1] != XF_TCP_OPT_MSS_LEN)
		return true;
	mss = option[2] << 8 | option[3];
	if (mss > limit) {
		option[2] = limit >> 8;
		option[3] = limit;
		*delta += xf_mss_delta(i, mss, limit);
	}
	return true;
}

/*
 * The walks below are global functions, which the verifier goes through once and
 * by themselves (hence the check for NULL). Where they stand is kept in memory:
 * there the verifier does not follow it, so that one option is like the other to
 * it and it need not try every way through the list.
 */

/*
 * Lowers every MSS option above `limit` and returns the checksum delta in
 * network order, 0 if nothing was lowered. src/packet/mss.rs does the same.
 */
__noinline __u32 xf_clamp_mss(struct xf_options *options, __u16 limit)
{
	volatile __u32 *at, *delta;

	if (!options)
		return 0;
	at = &options->at;
	delta = &options->delta;
	for (int n = 0; n <= XF_OPT_MAX - XF_TCP_OPT_MSS_LEN; n++) {
		__u32 i = *at;

		if (i > XF_OPT_MAX - XF_TCP_OPT_MSS_LEN || i + XF_TCP_OPT_MSS_LEN > options->len ||
		    !xf_clamp_option(&options->byte[i], limit, at, delta))
			break;
	}
	return *delta;
}

/* 1 if the list can be walked to its end: no length below 2 or beyond the list. */
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
