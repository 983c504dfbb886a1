// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * --redirect late: LAN ingress behind GRO. The XDP program has passed oversize
 * TCP segments; GRO has merged those of one flow that came in one batch. This
 * program lowers gso_size of what is merged, so that the kernel cuts it to the
 * SA MTU where it sends it (tcp_gso_segment(); XFRM before it encrypts), and
 * cuts a segment that stayed alone in two.
 *
 * Two packets cannot both go on from here: the halves take the way through the
 * CPU's backlog (BPF_F_INGRESS), and so does, to keep its order, what follows
 * them in their flow. What comes back from there carries a token in skb->cb
 * and passes.
 *
 * Needs tcx (Linux 6.6). src/xdp/late.rs fills in struct late_config.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define XF_CTX struct __sk_buff
#define xf_load bpf_skb_load_bytes

#include "intf.h"
#include "parse.h"
#include "routes.h"
#include "deaf_hosts.h"

const volatile struct late_config {
	__u64 sticky_ns; /* silence after which a flow no longer follows a segment that was cut */
	__u64 flow_seed; /* keys the flow hash */
	__u64 token;	 /* in skb->cb of what comes back: random, because GRO leaves its own bytes there */
	__u32 ifindex;	 /* the LAN interface */
	__u32 deaf_only; /* --force deaf */
} cfg;

#include "flow.h"

struct late_counters {
	__u64 packets[XF_LATE_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct late_counters);
} late_counters SEC(".maps");

/* More than the backlogs of all CPUs hold (net.core.netdev_max_backlog each, 1000 by default). */
#define UNDER_WAY_MAX 1000000

#define XF_MIN_MTU 68

#define CHUNK	 512 /* longest input of bpf_csum_diff() on older kernels */
#define TAIL_MAX 4096

/* What the stack is too small for. */
struct scratch {
	__u8 tail[TAIL_MAX + CHUNK]; /* data of the second half, zeros behind it */
	__u8 chunk[CHUNK];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

/* When a segment was cut last, CLOCK_MONOTONIC ns: without one nothing can follow. */
volatile __u64 last_cut;
/* Packets on their way through a backlog, but for those that it had no room for. */
__s64 under_way;

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
	union {
		struct tcphdr tcp;
		__u8 header[32]; /* zeros behind its end */
	};
};

static __always_inline struct scratch *scratch_of_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

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

/* True if the checksum is right, or was left to hardware: new ones over damaged data would launder it. */
static __always_inline bool sound(struct __sk_buff *skb, struct segment *segment)
{
	__sum16 came = segment->tcp.check;
	__s64 first = sum_of(skb, segment->data, segment->share);
	__s64 second = sum_of(skb, segment->data + segment->share, segment->len - segment->share);
	__u32 pseudo = xf_csum_fold(segment->addresses) + bpf_htons(segment->data - segment->l4 + segment->len);

	if (first < 0 || second < 0)
		return false;
	segment->sum[0] = first;
	segment->sum[1] = second;
	segment->tcp.check = 0;
	return came == checksum(segment, segment->len, xf_csum_fold(first) + xf_csum_fold(second)) ||
	       came == xf_csum_fold(pseudo);
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

static __always_inline void mark(struct __sk_buff *skb)
{
	skb->cb[0] = cfg.token;
	skb->cb[1] = cfg.token >> 32;
	__sync_fetch_and_add(&under_way, 1);
}

static __always_inline int queue(struct __sk_buff *skb)
{
	mark(skb);
	return bpf_redirect(cfg.ifindex, BPF_F_INGRESS);
}

/*
 * Sends the first half on its way and makes `skb` the second. The data of the
 * second waits aside meanwhile, since a packet can only be cut at its end.
 */
static __always_inline int cut(struct __sk_buff *skb, struct segment *segment, struct late_counters *count)
{
	__u8 flags = segment->header[13];
	struct scratch *room = scratch_of_cpu();
	__u32 rest = segment->len - segment->share;
	bool queued;

	barrier_var(rest);
	if (!room || !rest || rest > TAIL_MAX ||
	    bpf_skb_load_bytes(skb, segment->data + segment->share, room->tail, rest) ||
	    bpf_skb_change_tail(skb, segment->data + segment->share, 0)) {
		count->packets[XF_LATE_REFUSED]++;
		return TC_ACT_UNSPEC;
	}
	segment->header[13] = flags & ~(XF_TCP_PSH | XF_TCP_FIN);
	if (write_headers(skb, segment, segment->share, segment->sum[0], 0))
		goto lost;
	mark(skb);
	queued = !bpf_clone_redirect(skb, cfg.ifindex, BPF_F_INGRESS);

	segment->header[13] = flags & ~XF_TCP_CWR;
	segment->tcp.seq = bpf_htonl(bpf_ntohl(segment->tcp.seq) + segment->share);
	if (!queued || bpf_skb_change_tail(skb, segment->data + rest, 0) ||
	    bpf_skb_store_bytes(skb, segment->data, room->tail, rest, BPF_F_RECOMPUTE_CSUM) ||
	    write_headers(skb, segment, rest, segment->sum[1], 1))
		goto lost;
	count->packets[XF_LATE_CUT]++;
	return queue(skb);
lost:
	count->packets[XF_LATE_LOST]++;
	return TC_ACT_SHOT;
}

/*
 * Grown, a GSO packet has its gso_size lowered by as much (bpf_skb_net_grow());
 * shrunk again with FIXED_GSO it keeps that. Both at the MAC header, so that no
 * byte of the packet has changed in the end. One step changes 4095 at most.
 */
static __always_inline int lower(struct __sk_buff *skb, __u32 share, struct late_counters *count)
{
	if (skb->gso_size <= share)
		return TC_ACT_UNSPEC;
	for (int i = 0; i < 16; i++) {
		__u32 size = skb->gso_size, step = size - share;

		if (size <= share)
			break;
		if (step > 0xfff)
			step = 0xfff;
		if (bpf_skb_adjust_room(skb, step, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_NO_CSUM_RESET)) {
			count->packets[XF_LATE_REFUSED]++;
			return TC_ACT_UNSPEC;
		}
		if (bpf_skb_adjust_room(skb, -(__s32)step, BPF_ADJ_ROOM_MAC,
					BPF_F_ADJ_ROOM_NO_CSUM_RESET | BPF_F_ADJ_ROOM_FIXED_GSO)) {
			count->packets[XF_LATE_LOST]++;
			return TC_ACT_SHOT;
		}
	}
	count->packets[XF_LATE_LOWERED]++;
	return TC_ACT_UNSPEC;
}

/* False under --force deaf for a host that the kernel is to answer. */
static __always_inline bool served(const struct xf_packet *packet)
{
	struct xf_address source = {};

	if (!cfg.deaf_only)
		return true;
	if (packet->v6) {
		__builtin_memcpy(&source, &packet->ip6->saddr, sizeof(source));
	} else {
		source.byte[10] = source.byte[11] = 0xff;
		__builtin_memcpy(&source.byte[12], &packet->ip->saddr, 4);
	}
	return bpf_map_lookup_elem(&deaf, &source);
}

static __always_inline __u32 sum_of_addresses(const struct xf_packet *packet)
{
	const __u16 *word = packet->v6 ? packet->ip6->saddr.s6_addr16 : (void *)&packet->ip->saddr;
	__u32 sum = bpf_htons(IPPROTO_TCP);

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += word[i];
	if (packet->v6) {
#pragma unroll
		for (int i = 4; i < 16; i++)
			sum += word[i];
	}
	return sum;
}

/* An oversize TCP packet: the conditions are those of left_to_gro() in xdpfrag.bpf.c. */
static __always_inline int oversize(struct __sk_buff *skb, const struct xf_packet *packet, const struct xf_tcp *tcp,
				    __u32 mtu, bool behind, __u64 *stamp, struct late_counters *count)
{
	struct segment segment = {
		.l3 = packet->l3,
		.l4 = tcp->l4,
		.v6 = packet->v6,
		.addresses = sum_of_addresses(packet),
	};
	__u32 header = tcp->header_len, headers = packet->ihl + header, share;

	if (packet->fragment || tcp->l4 != packet->l3 + packet->ihl || mtu <= headers ||
	    tcp->flags & (XF_TCP_SYN | XF_TCP_RST | XF_TCP_URG) || !served(packet) || !xf_bare_tcp(skb, tcp))
		return TC_ACT_UNSPEC;
	share = (mtu - headers) & ~1;
	if (skb->gso_size)
		return lower(skb, share, count);

	segment.data = tcp->l4 + header;
	segment.len = packet->total - headers;
	segment.share = share;
	if (bpf_skb_load_bytes(skb, tcp->l4, segment.header, sizeof(struct tcphdr)) ||
	    (header > sizeof(struct tcphdr) &&
	     bpf_skb_load_bytes(skb, tcp->l4 + sizeof(struct tcphdr), segment.header + sizeof(struct tcphdr), 12)) ||
	    segment.len > 2 * share) {
		count->packets[XF_LATE_REFUSED]++;
		return TC_ACT_UNSPEC;
	}
	if (!sound(skb, &segment)) {
		count->packets[XF_LATE_CHECKSUM]++;
		return TC_ACT_UNSPEC;
	}
	if (!behind)
		under_way = 0;
	last_cut = bpf_ktime_get_ns();
	if (stamp)
		*stamp = last_cut;
	return cut(skb, &segment, count);
}

SEC("tc")
int xdpfrag_late(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	bool behind = last_cut && (__s64)(bpf_ktime_get_ns() - last_cut) < (__s64)cfg.sticky_ns;
	struct late_counters *count;
	struct xf_packet packet;
	struct xf_route *route;
	struct xf_tcp tcp = {};
	__u32 zero = 0;
	__u64 *stamp;
	int action = TC_ACT_UNSPEC;

	/* Nothing is shorter than the shortest MTU (RFC 791), and little traffic needs more than this line. */
	if (!behind && skb->len <= ETH_HLEN + XF_MIN_MTU)
		return TC_ACT_UNSPEC;
	count = bpf_map_lookup_elem(&late_counters, &zero);
	if (!count)
		return TC_ACT_UNSPEC;
	if (last_cut && skb->cb[0] == (__u32)cfg.token && skb->cb[1] == cfg.token >> 32) {
		skb->cb[0] = skb->cb[1] = 0;
		count->packets[XF_LATE_RETURNED]++;
		__sync_fetch_and_add(&under_way, -1);
		return TC_ACT_UNSPEC;
	}
	if (xf_parse(data, end, skb->len, &packet) != XF_FITS)
		return TC_ACT_UNSPEC;
	xf_find_tcp(skb, end, &packet, &tcp);
	if (!tcp.l4 || (!behind && !skb->gso_size && packet.total <= XF_MIN_MTU))
		return TC_ACT_UNSPEC;
	route = xf_route_of(&packet);
	if (!route || route->flags & (XF_ROUTE_LOCAL | XF_ROUTE_PASS))
		return TC_ACT_UNSPEC;
	stamp = flow_stamp(hash_of_pair(&packet), tcp.source, tcp.dest);
	if (packet.total > route->mtu)
		action = oversize(skb, &packet, &tcp, route->mtu, behind, stamp, count);
	if (action != TC_ACT_UNSPEC || !behind || !stamp || !follows(*stamp))
		return action;
	/* A kernel that wiped the token would send a packet round for ever. */
	if (under_way > UNDER_WAY_MAX)
		return TC_ACT_UNSPEC;
	count->packets[XF_LATE_FOLLOWED]++;
	return queue(skb);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
