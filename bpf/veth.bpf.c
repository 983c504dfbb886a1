// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Hand-back by AF_XDP over a veth pair: on the stack's end every frame becomes
 * one that the LAN interface received, so that the stack sees no other device.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 lan_ifindex;

SEC("tc")
int veth(struct __sk_buff *skb)
{
	return bpf_redirect(lan_ifindex, BPF_F_INGRESS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
