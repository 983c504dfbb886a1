// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Hand-back by BPF_PROG_RUN with live frames: each run turns the next slot into
 * a frame that the stack receives on the LAN interface.
 *
 * src/handback/inject.rs mirrors struct slot and struct inject_state.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "intf.h"
#include "mark.h"

#define MIN_FRAME 14 /* ETH_HLEN: the least that bpf_xdp_adjust_tail() leaves */

struct slot {
	__u32 len;
	__u32 pad[3];
	__u8 frame[];
};

/* Written by the worker, which sets shape and size before the load. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 512);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, 2048);
} slots SEC(".maps");

const volatile __u32 max_frame = 2048 - sizeof(struct slot);

/* One thread runs this program, so that plain loads and stores do. */
volatile struct inject_state {
	__u64 next;	/* slot of the next run */
	__u64 no_slot;	/* runs without a slot */
	__u64 bad_len;	/* slots whose length is no frame's */
	__u64 no_tail;	/* bpf_xdp_adjust_tail() failed */
	__u64 no_store; /* bpf_xdp_store_bytes() failed */
	__u64 padding;	/* slots of length 0, which are to make no frame */
} state;

SEC("xdp")
int inject(struct xdp_md *ctx)
{
	__u32 key = state.next;
	struct slot *slot;
	__u32 len;
	int room;

	state.next++;
	slot = bpf_map_lookup_elem(&slots, &key);
	if (!slot) {
		state.no_slot++;
		return XDP_DROP;
	}
	len = slot->len;
	if (!len) {
		state.padding++;
		return XDP_DROP;
	}
	if (len < MIN_FRAME || len > max_frame) {
		state.bad_len++;
		return XDP_DROP;
	}
	room = ctx->data_end - ctx->data;
	if (room != (int)len && bpf_xdp_adjust_tail(ctx, (int)len - room)) {
		state.no_tail++;
		return XDP_DROP;
	}
	/* The page is recycled with what its last receiver made of it: write all of it. */
	if (bpf_xdp_store_bytes(ctx, 0, slot->frame, len)) {
		state.no_store++;
		return XDP_DROP;
	}
	/* Live frames have room for metadata. */
	xf_mark(ctx);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
