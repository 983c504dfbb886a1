/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Hosts that have shown to be deaf. The XDP program makes this map (deaf.h
 * says how it is filled), and the program behind GRO is loaded with the same.
 */
#ifndef XDPFRAG_DEAF_HOSTS_H
#define XDPFRAG_DEAF_HOSTS_H

/* Apart from `warned`, and keyed by source alone: no host can push another one out. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, XF_DEAF_HOSTS);
	__type(key, struct xf_address);
	__type(value, struct xf_deaf);
} deaf SEC(".maps");

#endif
