/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What holds for which prefix. The XDP program makes these maps, and the clamp
 * program is loaded with the same ones (src/xdp/clamp.rs).
 */
#ifndef XDPFRAG_ROUTES_H
#define XDPFRAG_ROUTES_H

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct xf_prefix4);
	__type(value, struct xf_route);
} routes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct xf_prefix6);
	__type(value, struct xf_route);
} routes6 SEC(".maps");

#endif
