/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What holds for an IPv4 destination, remembered per CPU: the look-up in
 * `routes` takes longer than all else that a packet that fits needs. Included behind
 * `shared`, cpu.h and routes.h.
 */
#ifndef XDPFRAG_ROUTE_CACHE_H
#define XDPFRAG_ROUTE_CACHE_H

/* A route without its selector in one word, as a global function can return it; 0 for none. */
static __always_inline __u64 rule_of(const struct xf_route *route)
{
	if (!route)
		return 0;
	return route->mtu | (__u64)route->mss4 << 16 | (__u64)route->mss6 << 32 | (__u64)route->flags << 48;
}

/* A destination's entry. One that was written in part, as on a PREEMPT_RT kernel by two at a time, fails the check. */
static __always_inline volatile struct cached *cached_for(struct xf_cpu *cpu, __be32 remote)
{
	return &cpu->routes[remote * 0x9e3779b1 >> (32 - CACHE_BITS)];
}

/* For what `check` is what it should be; not 0, as an entry that was never written has it, but in 2^32 generations. */
static __always_inline __u64 wanted(__be32 remote)
{
	return (__u64)remote << 32 ^ ~shared.generation;
}

/*
 * What holds between a LAN host and an address behind the tunnel: rule_of(). No
 * entry outlives a change of the routes, since the generation is read before
 * they are, and user space counts it up behind the change.
 */
__noinline __u64 rule4(__be32 host, __be32 remote)
{
	__u64 want = wanted(remote), rule, selector, check;
	volatile struct cached *cached;
	struct xf_cpu *cpu = this_cpu();
	struct xf_prefix4 key = { .prefixlen = 32 };
	struct xf_source4 source = { .prefixlen = 64 };
	struct xf_route *route;

	if (!cpu)
		return 0;
	cached = cached_for(cpu, remote);
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
static __always_inline __u64 remembered_rule4(struct xf_cpu *cpu, __be32 host, __be32 remote)
{
	__u64 want = wanted(remote), rule;
	volatile struct cached *cached = cached_for(cpu, remote);

	rule = cached->rule;
	if ((cached->check ^ rule) == want && !cached->selector)
		return rule;
	return rule4(host, remote);
}

/* What holds for a packet from the LAN, but for a selector. False for nothing. */
static __always_inline bool route_of(struct xf_cpu *cpu, const struct xf_packet *packet, struct xf_route *route)
{
	__u64 rule = packet->v6 ? rule_of(xf_route6(&packet->ip6->saddr, &packet->ip6->daddr)) :
				  remembered_rule4(cpu, packet->ip->saddr, packet->ip->daddr);

	route->mtu = rule;
	route->mss4 = rule >> 16;
	route->mss6 = rule >> 32;
	route->flags = rule >> 48;
	return rule;
}

#endif
