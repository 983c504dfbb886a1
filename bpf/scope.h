/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Which packets from the LAN go into a tunnel, and by which way. Included after route_cache.h. */
#ifndef XDPFRAG_SCOPE_H
#define XDPFRAG_SCOPE_H

/* fe80::/10 never leaves its link (RFC 4291 section 2.5.6), hence is in no tunnel. */
static __always_inline bool link_local(const struct xf_packet *packet)
{
	return packet->v6 && (packet->ip6->daddr.s6_addr16[0] & bpf_htons(0xffc0)) == bpf_htons(0xfe80);
}

/* XF_FITS for a packet that goes by `route`, which is filled in; else why it is to be left alone. */
static __always_inline enum xf_reason in_scope(struct xf_cpu *cpu, const struct xf_packet *packet,
					       struct xf_route *route)
{
	if (!route_of(cpu, packet, route) || route->flags & XF_ROUTE_PASS)
		return XF_OUT_OF_SCOPE;
	if (route->flags & XF_ROUTE_LOCAL)
		return XF_LOCAL;
	return link_local(packet) ? XF_OUT_OF_SCOPE : XF_FITS;
}

/*
 * By which way an oversize IPv4 packet goes, if it is not cut into segments. What
 * asks for ports has never seen any in a fragment that the sender made: cut again
 * it misses nothing.
 */
static __always_inline enum xf_way way_of(const struct xf_packet *packet, const struct xf_route *route)
{
	__u32 other = route->flags >> XF_WAY_OTHER_SHIFT & (XF_WAY_MAX - 1);

	if (packet->fragment)
		return other == XF_WAY_EDIT ? XF_WAY_EDIT : XF_WAY_FRAGMENTS;
	if (packet->ip->protocol == IPPROTO_UDP)
		return route->flags >> XF_WAY_UDP_SHIFT & (XF_WAY_MAX - 1);
	return other;
}

#endif
