/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What holds for an IPv4 destination, remembered per CPU: the look-up in
 * `routes` takes longer than all else that a packet that fits needs. Included behind
 * `shared` and routes.h.
 */
#ifndef XDPFRAG_ROUTE_CACHE_H
#define XDPFRAG_ROUTE_CACHE_H

#define CACHE_BITS 10

/*
 * A destination's entry in `routes`. One that was written in part, as on a
 * PREEMPT_RT kernel by two at a time, fails the check.
 */
struct cached {
	__u64 check;	/* destination and generation, XOR the two below */
	__u64 rule;	/* as of rule_of() */
	__u64 selector; /* of the route */
};

/* One value and not as many: the kernel allocates each for itself. */
struct cache {
	struct cached slot[1 << CACHE_BITS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cache);
} cache SEC(".maps");

/* A route without its selector in one word, as a global function can return it; 0 for none. */
static __always_inline __u64 rule_of(const struct xf_route *route)
{
	if (!route)
		return 0;
	return route->mtu | (__u64)route->mss4 << 16 | (__u64)route->mss6 << 32 | (__u64)route->flags << 48;
}

static __always_inline volatile struct cached *cached_for(__be32 remote)
{
	__u32 zero = 0;
	struct cache *own = bpf_map_lookup_elem(&cache, &zero);

	return own ? &own->slot[remote * 0x9e3779b1 >> (32 - CACHE_BITS)] : NULL;
}

/*
 * What holds between a LAN host and an address behind the tunnel: rule_of(). No
 * entry outlives a change of the routes, since the generation is read before
 * they are, and user space counts it up behind the change.
 */
__noinline __u64 rule4(__be32 host, __be32 remote)
{
	__u64 want = (__u64)remote << 32 | (__u32)~shared.generation, rule, selector, check;
	volatile struct cached *cached = cached_for(remote);
	struct xf_prefix4 key = { .prefixlen = 32 };
	struct xf_source4 source = { .prefixlen = 64 };
	struct xf_route *route;

	if (!cached)
		return 0;
	rule = cached->rule;
	selector = cached->selector;
	if ((cached->check ^ rule ^ selector) != want) {
		/* A barrier: arm64 must not read the route before the generation. */
		check = __sync_fetch_and_add(&cached->check, 0);
		barrier_var(check);
		__builtin_memcpy(key.addr, &remote, sizeof(key.addr));
		route = bpf_map_lookup_elem(&routes, &key);
		rule = rule_of(route);
		selector = route ? route->selector : 0;
		cached->rule = rule;
		cached->selector = selector;
		cached->check = want ^ rule ^ selector;
	}
	if (!selector)
		return rule;
	source.selector = selector;
	__builtin_memcpy(source.addr, &host, sizeof(source.addr));
	return rule_of(bpf_map_lookup_elem(&sources, &source));
}

/* The same, without a call if it is remembered, and the same for every host. */
static __always_inline __u64 remembered_rule4(__be32 host, __be32 remote)
{
	__u64 want = (__u64)remote << 32 | (__u32)~shared.generation, rule;
	volatile struct cached *cached = cached_for(remote);

	if (!cached)
		return 0;
	rule = cached->rule;
	if ((cached->check ^ rule) == want && !cached->selector)
		return rule;
	return rule4(host, remote);
}

/* What holds for a packet from the LAN, but for a selector. False for nothing. */
static __always_inline bool route_of(const struct xf_packet *packet, struct xf_route *route)
{
	__u64 rule = packet->v6 ? rule_of(xf_route6(&packet->ip6->saddr, &packet->ip6->daddr)) :
				  remembered_rule4(packet->ip->saddr, packet->ip->daddr);

	route->mtu = rule;
	route->mss4 = rule >> 16;
	route->mss6 = rule >> 32;
	route->flags = rule >> 48;
	return rule;
}

#endif
