/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is changed in an oversize IPv4 packet that goes on whole (XF_WAY_EDIT):
 * the kernel fragments it where it leaves, after every look-up and before it
 * encrypts. Included after edit.h, hash.h and ident.h.
 */
#ifndef XDPFRAG_EDIT_WHOLE_H
#define XDPFRAG_EDIT_WHOLE_H

/*
 * Takes DF off, and answers what was changed as edit() does. What came with DF may
 * have any identification (RFC 6864 section 4.1), so that its fragments need a
 * fresh one.
 */
static __always_inline __u32 edit_whole(XF_CTX *ctx, const struct xf_packet *packet)
{
	__u32 edits = 1 << XF_EDIT_DF;
	__be16 id;

	if (packet->v6 || !(packet->frag_off & XF_IP_DF))
		return 0;
	if (xf_id_may_change(packet) && next_ident(hash_of_pair(packet), &id))
		edits |= 1 << XF_EDIT_ID;
	else
		id = packet->ip->id;
	write_without_df(ctx, packet, id);
	return edits;
}

#endif
