/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What holds for packets between which prefixes. The XDP program makes these
 * maps, and the clamp program is loaded with the same ones (src/xdp/clamp.rs).
 */
#ifndef XDPFRAG_ROUTES_H
#define XDPFRAG_ROUTES_H

#define LPM_MAP(name, key_type)                                                                                    \
	struct {                                                                                                   \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);                                                               \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                              \
		__uint(max_entries, XF_ROUTES);                                                                    \
		__type(key, key_type);                                                                             \
		__type(value, struct xf_route);                                                                    \
	} name SEC(".maps")

/* By the address behind the tunnel. */
LPM_MAP(routes, struct xf_prefix4);
LPM_MAP(routes6, struct xf_prefix6);
/* By the address on the LAN, for those routes that not every host there may take. */
LPM_MAP(sources, struct xf_source4);
LPM_MAP(sources6, struct xf_source6);

/* What holds between a LAN host and an address behind the tunnel; NULL for nothing. */
static __always_inline struct xf_route *xf_route4(const __be32 *host, const __be32 *remote)
{
	struct xf_prefix4 key = { .prefixlen = 32 };
	struct xf_source4 source = { .prefixlen = 64 };
	struct xf_route *route;

	__builtin_memcpy(key.addr, remote, sizeof(key.addr));
	route = bpf_map_lookup_elem(&routes, &key);
	if (!route || !route->selector)
		return route;
	source.selector = route->selector;
	__builtin_memcpy(source.addr, host, sizeof(source.addr));
	return bpf_map_lookup_elem(&sources, &source);
}

static __always_inline struct xf_route *xf_route6(const struct in6_addr *host, const struct in6_addr *remote)
{
	struct xf_prefix6 key = { .prefixlen = 128 };
	struct xf_source6 source = { .prefixlen = 160 };
	struct xf_route *route;

	__builtin_memcpy(key.addr, remote, sizeof(key.addr));
	route = bpf_map_lookup_elem(&routes6, &key);
	if (!route || !route->selector)
		return route;
	source.selector = route->selector;
	__builtin_memcpy(source.addr, host, sizeof(source.addr));
	return bpf_map_lookup_elem(&sources6, &source);
}

/* The same for a packet from the LAN. */
static __always_inline struct xf_route *xf_route_of(const struct xf_packet *packet)
{
	if (packet->v6)
		return xf_route6(&packet->ip6->saddr, &packet->ip6->daddr);
	return xf_route4(&packet->ip->saddr, &packet->ip->daddr);
}

#endif
