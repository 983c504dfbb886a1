/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is changed in a frame that fits, in place, in the driver. Included by
 * xdpfrag.bpf.c behind `cfg` and parse.h.
 */
#ifndef XDPFRAG_EDIT_FRAME_H
#define XDPFRAG_EDIT_FRAME_H

/* Drivers put at least the first 128 bytes of a frame into its first buffer: all of a SYN. */
#define xf_pull(ctx, len) false
#define xf_update_check	  update_check

/* Adds `delta` to the checksum at this offset; 0, or below for a frame that ends before. */
static __always_inline long update_check(struct xdp_md *ctx, __u32 at, __u32 delta)
{
	void *end = (void *)(long)ctx->data_end;
	__sum16 *check = (void *)(long)ctx->data + at, copy;
	long error;

	if ((void *)(check + 1) <= end) {
		*check = xf_csum_update(*check, delta);
		return 0;
	}
	error = bpf_xdp_load_bytes(ctx, at, &copy, sizeof(copy));
	if (error)
		return error;
	copy = xf_csum_update(copy, delta);
	return bpf_xdp_store_bytes(ctx, at, &copy, sizeof(copy));
}

static __always_inline bool xf_put16(struct xdp_md *ctx, __u32 at, __be16 value)
{
	__u8 *bytes = (void *)(long)ctx->data + at;

	if ((void *)(bytes + sizeof(value)) > (void *)(long)ctx->data_end)
		return false;
	__builtin_memcpy(bytes, &value, sizeof(value));
	return true;
}

static __always_inline void xf_write_ip(struct xdp_md *ctx, const struct xf_packet *packet, __be16 id, __be16 frag_off,
					__sum16 check)
{
	packet->ip->id = id;
	packet->ip->frag_off = frag_off;
	packet->ip->check = check;
}

#include "edit.h"

/* True for a SYN to be clamped by a worker, which finishes its checksum first. */
static __always_inline bool unfinished_syn(struct xdp_md *ctx, const struct xf_packet *packet,
					   const struct xf_tcp *tcp, const struct xf_route *route)
{
	__u16 limit = mss_limit(packet, tcp, route);

	return limit && !packet->fragment && xf_unfinished(packet, IPPROTO_TCP, tcp->len, tcp->check) &&
	       lower_mss(ctx, tcp, limit, true);
}

#endif
