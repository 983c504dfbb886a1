/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A TCP segment that stayed alone becomes two, as src/packet/resegment.rs makes
 * them. Included by late.bpf.c behind late_queue.h.
 */
#ifndef XDPFRAG_LATE_SEGMENT_H
#define XDPFRAG_LATE_SEGMENT_H

/* A segment to cut in two. */
struct segment {
	__u32 l3;	 /* offsets in the frame: of the IP header, */
	__u32 l4;	 /* of the TCP header, */
	__u32 data;	 /* and of the data */
	__u32 len;	 /* of the data, bytes */
	__u32 share;	 /* of it in the first half: even, so that sums add up */
	__u32 addresses; /* sum over both and the protocol */
	__u32 sum[2];	 /* over the data of each half */
	__u32 v6;
	struct place place;
	union {
		__u8 header[32]; /* zeros behind its end; first, so that all of it is initialised */
		struct tcphdr tcp;
	};
};

/* Ones' complement sum over `len` bytes of the frame, added to no more than 16 bits; below 0 on failure. */
__noinline __s64 sum_of(struct __sk_buff *skb, __u32 at, __u32 len)
{
	struct scratch *room = scratch_of_cpu();
	__s64 sum = 0;

	if (!room)
		return -1;
	for (int i = 0; i < TAIL_MAX / CHUNK; i++) {
		__u32 n = len < CHUNK ? len : CHUNK;

		if (!n)
			break;
		barrier_var(n);
		if (n > CHUNK)
			return -1;
		if (n < CHUNK)
			__builtin_memset(room->chunk, 0, CHUNK);
		if (bpf_skb_load_bytes(skb, at, room->chunk, n))
			return -1;
		sum = bpf_csum_diff(NULL, 0, (void *)room->chunk, CHUNK, sum);
		if (sum < 0)
			return -1;
		at += n;
		len -= n;
	}
	return len ? -1 : sum;
}

/* The checksum of a header whose checksum field is 0, in front of `len` bytes of data with sum `sum`. */
static __always_inline __sum16 checksum(const struct segment *segment, __u32 len, __u32 sum)
{
	__s64 header = bpf_csum_diff(NULL, 0, (void *)segment->header, sizeof(segment->header), 0);
	__u32 whole = xf_csum_fold(sum) + xf_csum_fold(header) + xf_csum_fold(segment->addresses) +
		      bpf_htons(segment->data - segment->l4 + len);

	return ~xf_csum_fold(whole);
}

/*
 * True if the checksum is right: new ones over damaged data would launder it. One
 * that was left to hardware (CHECKSUM_PARTIAL) the kernel would finish once more.
 */
static __always_inline bool sound(struct __sk_buff *skb, struct segment *segment)
{
	__sum16 came = segment->tcp.check;
	__s64 first = sum_of(skb, segment->data, segment->share);
	__s64 second = sum_of(skb, segment->data + segment->share, segment->len - segment->share);

	if (first < 0 || second < 0)
		return false;
	segment->sum[0] = first;
	segment->sum[1] = second;
	segment->tcp.check = 0;
	return came == checksum(segment, segment->len, xf_csum_fold(first) + xf_csum_fold(second));
}

/* Writes the headers of a half with `len` bytes of data. */
static __always_inline long write_headers(struct __sk_buff *skb, struct segment *segment, __u32 len, __u32 sum,
					  __u32 number)
{
	__u32 payload = segment->data - segment->l4 + len, header = segment->data - segment->l4;
	struct iphdr ip;

	segment->tcp.check = 0;
	segment->tcp.check = checksum(segment, len, sum);
	barrier_var(header);
	if (header < sizeof(struct tcphdr) || header > sizeof(segment->header) ||
	    bpf_skb_store_bytes(skb, segment->l4, segment->header, header, BPF_F_RECOMPUTE_CSUM))
		return -1;
	if (segment->v6) {
		__be16 payload_len = bpf_htons(segment->l4 - segment->l3 - sizeof(struct ipv6hdr) + payload);

		return bpf_skb_store_bytes(skb, segment->l3 + offsetof(struct ipv6hdr, payload_len), &payload_len,
					   sizeof(payload_len), BPF_F_RECOMPUTE_CSUM);
	}
	if (bpf_skb_load_bytes(skb, segment->l3, &ip, sizeof(ip)))
		return -1;

	__be16 total = bpf_htons(segment->l4 - segment->l3 + payload), id = bpf_htons(bpf_ntohs(ip.id) + number);

	ip.check = xf_csum_update(ip.check, (__u16)~ip.tot_len + total + (__u16)~ip.id + id);
	ip.tot_len = total;
	ip.id = id;
	return bpf_skb_store_bytes(skb, segment->l3, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

/* Queues the first half, and `skb` as the second. */
static __always_inline int cut(struct __sk_buff *skb, struct segment *segment, const struct place *place,
			       struct xf_cpu *cpu)
{
	__u8 flags = segment->header[13];
	struct scratch *room = scratch_of_cpu();
	__u32 rest = segment->len - segment->share;
	bool queued;

	barrier_var(rest);
	if (!room || !rest || rest > TAIL_MAX ||
	    bpf_skb_load_bytes(skb, segment->data + segment->share, room->tail, rest) ||
	    bpf_skb_change_tail(skb, segment->data + segment->share, 0)) {
		cpu->late[XF_LATE_REFUSED]++;
		return LEFT_ALONE;
	}
	segment->header[13] = flags & ~(XF_TCP_PSH | XF_TCP_FIN);
	if (write_headers(skb, segment, segment->share, segment->sum[0], 0))
		goto lost;
	queued = queue_copy(skb, place, cpu);

	/* With Accurate ECN part of a counter. Its option is none that xf_bare_tcp() lets through. */
	segment->header[13] = segment->header[12] & XF_TCP_AE ? flags : flags & ~XF_TCP_CWR;
	segment->tcp.seq = bpf_htonl(bpf_ntohl(segment->tcp.seq) + segment->share);
	if (!queued || !become_second(skb, room, segment->data, rest) ||
	    write_headers(skb, segment, rest, segment->sum[1], 1))
		goto lost;
	cpu->late[XF_LATE_CUT]++;
	return queue(skb, place, cpu);
lost:
	cpu->late[XF_LATE_LOST]++;
	return TC_ACT_SHOT;
}

/*
 * Cuts a segment of which the headers' places are known. Answers as oversize_tcp().
 * Global: the verifier goes through it once, whatever the way to it.
 */
__noinline int cut_in_two(struct __sk_buff *skb, struct segment *segment)
{
	struct xf_cpu *cpu = this_cpu();

	if (!segment || !cpu)
		return LEFT_ALONE;
	if (bpf_skb_load_bytes(skb, segment->l4, segment->header, sizeof(struct tcphdr)) ||
	    (segment->data - segment->l4 > sizeof(struct tcphdr) &&
	     bpf_skb_load_bytes(skb, segment->l4 + sizeof(struct tcphdr), segment->header + sizeof(struct tcphdr), 12)) ||
	    segment->len > 2 * segment->share) {
		cpu->late[XF_LATE_REFUSED]++;
		return LEFT_ALONE;
	}
	if (!sound(skb, segment)) {
		cpu->late[XF_LATE_CHECKSUM]++;
		return LEFT_ALONE;
	}
	return cut(skb, segment, &segment->place, cpu);
}

#endif
