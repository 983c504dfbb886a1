/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Fresh IPv4 identifications. The workers take theirs from the same counters
 * (src/packet/ident.rs), so that two fragments of different datagrams are
 * never taken for one. Included after `cfg`.
 */
#ifndef XDPFRAG_IDENT_H
#define XDPFRAG_IDENT_H

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, XF_IDENTS);
	__type(key, __u32);
	__type(value, __u64);
} idents SEC(".maps");

/* A fresh identification for packets with this hash, see hash_of_pair(). Never 0: see Idents::next(). */
static __always_inline bool next_ident(__u64 hash, __be16 *id)
{
	__u32 slot = (hash ^ hash >> 31) & (XF_IDENTS - 1);
	__u64 *counter = bpf_map_lookup_elem(&idents, &slot);

	if (!counter)
		return false;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		__u16 next = __sync_fetch_and_add(counter, 1) << cfg.ident_bits | cfg.ident_part;

		*id = bpf_htons(next);
		if (next)
			break;
	}
	return true;
}

/*
 * The first of `count` fresh identifications in a row, which the kernel gives to
 * the parts of a merged packet. False with --id-partition: others count between.
 */
static __always_inline bool next_idents(__u64 hash, __u32 count, __be16 *id)
{
	__u32 slot = (hash ^ hash >> 31) & (XF_IDENTS - 1);
	__u64 *counter = bpf_map_lookup_elem(&idents, &slot);

	if (!counter || cfg.ident_bits || !count || count > 0x7fff)
		return false;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		__u16 first = __sync_fetch_and_add(counter, count);

		*id = bpf_htons(first);
		/* None of them is 0. */
		if (first && first + count <= 0x10000)
			break;
	}
	return true;
}

#endif
