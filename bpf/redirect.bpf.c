// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What a device of the hand-back receives (a veth's end, a TAP) becomes what the
 * LAN interface received, so that the stack sees no other device. A frame for
 * which the CPU's backlog has no room is counted by the kernel: rx_dropped of the
 * LAN interface.
 *
 * It carries the token of the program behind GRO, and no slot: that one leaves it alone.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 lan_ifindex;
const volatile __u64 token;

#define NO_SLOT (~0u) /* XF_NO_SLOT */

SEC("tc")
int redirect(struct __sk_buff *skb)
{
	skb->cb[0] = token;
	skb->cb[1] = token >> 32;
	skb->cb[2] = NO_SLOT;
	return bpf_redirect(lan_ifindex, BPF_F_INGRESS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
