/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * When a packet last went to a worker: as long as that is long ago, none can be
 * overtaken. By the tick, which is read as fast as any variable. Included
 * behind `cfg`, `live` and `shared`.
 */
#ifndef XDPFRAG_LATELY_H
#define XDPFRAG_LATELY_H

/* Ticks that another CPU's clock may be behind. */
#define TICKS_APART 16

/* True if these shared.redirects were so lately that something may have to go after one of them. */
static __always_inline bool are_recent(__u64 redirects)
{
	__u32 ago;

	if (!redirects)
		return false;
	ago = (__u32)bpf_jiffies64() - (__u32)redirects;
	return redirects == XF_HELD || ago + TICKS_APART < (__u32)cfg.sticky_ticks + TICKS_APART;
}

/*
 * False if nothing can go after another, since nothing went to a worker lately:
 * neither the hash nor the two look-ups are needed then.
 */
static __always_inline bool redirected_lately(void)
{
	return are_recent(shared.redirects);
}

/*
 * True while the XDP program passes unread what is certain to need no worker:
 * the program behind GRO is there, and nothing can have to go after a packet that
 * a worker has.
 */
static __always_inline bool leaves_unread(void)
{
	return live.late & XF_LEAVE_FITTING && !(cfg.sticky_ns && redirected_lately());
}

/* A packet goes to a worker now. */
static __always_inline void note_redirect(void)
{
	__u64 redirects = shared.redirects, now = (__u32)bpf_jiffies64();

	/* 0 says never. */
	now += !now;
	/* Once a tick, so that CPUs do not pass its cache line round. */
	if (redirects != XF_HELD && redirects != now)
		shared.redirects = now;
}

#endif
