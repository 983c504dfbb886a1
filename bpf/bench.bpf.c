// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Both ends of a measurement. bench_send makes a wire full of frames out of
 * templates, paced or not; bench_sink counts what arrives and how long it
 * took. bench_bounds.h has the least that can be done with a frame, to compare with.
 *
 * Every payload starts with HEAD_MAGIC and ends with a trailer that holds the
 * time of sending. The trailer adds nothing to a checksum, and the rest is
 * zero: a trailer that an earlier, shorter frame left behind in a recycled
 * page does no harm.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define XF_CTX struct xdp_md
#define xf_load bpf_xdp_load_bytes

#include "parse.h"

#define TEMPLATES 1024
#define HEAD 80		 /* bytes of a template: all headers, and more */
#define SHORTEST 60	 /* frame without its checksum */
#define HEAD_MAGIC 0x6865
#define TAIL_MAGIC 0x7461696c
#define BATCH 64	 /* of bpf_test_run_xdp_live, unless told otherwise */
#define LATE 16		 /* frames at the end of a batch that paced sending uses */
#define BACKLOG 1024	 /* frames that a late generator makes up for */
#define BUCKETS 1024

struct bench_template {
	__u16 len;
	__u8 tcp;     /* the sequence number goes on, per flow */
	__u8 stamped; /* there is room for a trailer */
	__u32 flow;
	__u32 advance; /* of the sequence number */
	__u8 head[HEAD];
};

struct bench_generator {
	__u64 rate_q30; /* frames per ns, 30 fractional bits; 0: as fast as it goes */
	__u64 start;	/* CLOCK_MONOTONIC, ns */
	__u64 interval; /* ns between departures of all that is due; 0: at once */
	__u32 templates;
	__u32 burst; /* frames that come back to back */
	__u32 next;  /* template */
	__u32 calls;
	__u64 due; /* frames sent or skipped */
	__u64 sent;
	__u64 skipped; /* too late to be made up for */
};

struct bench_limits {
	__u32 mtu;
	__u32 mss;
};

struct bench_seen {
	__u64 packets;
	__u64 data;  /* bytes behind the headers of IP and TCP or UDP */
	__u64 heads; /* packets that hold the start of an original's payload */
	__u64 tails; /* its end */
	__u64 syns;
	__u64 clamped;	/* of them, MSS within the limit */
	__u64 oversize; /* longer than the limit */
	__u64 strange;	/* none of the generator's */
};

struct bench_trailer {
	__u32 magic;
	__u32 low, high; /* CLOCK_MONOTONIC, ns */
	__u16 balance;	 /* makes the sum of the trailer 0xffff */
	__u16 zero;
} __attribute__((packed));

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TEMPLATES);
	__type(key, __u32);
	__type(value, struct bench_template);
} templates SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench_generator);
} generator SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TEMPLATES);
	__type(key, __u32);
	__type(value, __u32);
} sequences SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench_limits);
} limits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench_seen);
} seen SEC(".maps");

/* ns, see bucket(). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} latencies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct bench_headers {
	struct ethhdr ethernet;
	struct iphdr ip;
	__u8 l4[24]; /* as far as the MSS of a SYN */
} __attribute__((packed));

/* True if the next frame is to be sent now. */
static __always_inline int due(struct bench_generator *g, __u64 now)
{
	__u64 passed = now - g->start, due;

	if (g->interval)
		passed -= passed % g->interval;
	due = (passed * g->rate_q30) >> 30;
	if (g->burst > 1)
		due -= due % g->burst;
	if (due <= g->due)
		return 0;
	if (due - g->due > BACKLOG) {
		g->skipped += due - g->due - BACKLOG;
		g->due = due - BACKLOG;
	}
	g->due++;
	return 1;
}

/*
 * Run as live frames. Frames leave when their batch is full: sending at its end
 * keeps the time between stamp and departure below a microsecond. The kernel
 * recycles the pages as the gateway left them, hence whole headers every time.
 */
SEC("xdp")
int bench_send(struct xdp_md *ctx)
{
	__u32 zero = 0, index, flow, *sequence;
	struct bench_generator *g = bpf_map_lookup_elem(&generator, &zero);
	const struct bench_template *template;
	__u32 place, late;
	void *data, *end;
	__u64 now;

	if (!g)
		return XDP_ABORTED;
	place = g->calls++ % BATCH;
	late = g->burst > LATE ? g->burst : LATE;
	if (g->rate_q30 && place + late < BATCH)
		return XDP_DROP;
	now = bpf_ktime_get_ns();
	if (g->rate_q30 && !due(g, now))
		return XDP_DROP;

	index = g->next;
	g->next = index + 1 < g->templates ? index + 1 : 0;
	template = bpf_map_lookup_elem(&templates, &index);
	if (!template || bpf_xdp_adjust_tail(ctx, (int)template->len - (int)bpf_xdp_get_buff_len(ctx)))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + SHORTEST > end)
		return XDP_ABORTED;
	__builtin_memcpy(data, template->head, SHORTEST);
	if (data + HEAD <= end)
		__builtin_memcpy(data + SHORTEST, template->head + SHORTEST, HEAD - SHORTEST);
	if (template->tcp) {
		struct tcphdr *tcp = data + ETH_HLEN + sizeof(struct iphdr);

		flow = template->flow;
		sequence = bpf_map_lookup_elem(&sequences, &flow);
		if (!sequence)
			return XDP_ABORTED;
		/* The template has sequence number 0. */
		tcp->seq = bpf_htonl(*sequence);
		tcp->check = xf_csum_update(tcp->check, (tcp->seq & 0xffff) + (tcp->seq >> 16));
		*sequence += template->advance;
	}
	if (template->stamped) {
		struct bench_trailer trailer = { .magic = TAIL_MAGIC, .low = now, .high = now >> 32 };

		trailer.balance = ~xf_csum_fold(xf_csum_fold((trailer.magic & 0xffff) + (trailer.magic >> 16)) +
						xf_csum_fold((trailer.low & 0xffff) + (trailer.low >> 16)) +
						xf_csum_fold((trailer.high & 0xffff) + (trailer.high >> 16)));
		if (bpf_xdp_store_bytes(ctx, template->len - sizeof(trailer), &trailer, sizeof(trailer)))
			return XDP_ABORTED;
	}
	g->sent++;
	return XDP_TX;
}

/* 32 buckets per power of two: within 3 per cent. */
static __always_inline __u32 bucket(__u64 ns)
{
	__u32 exponent = 5, index;

	if (ns < 32)
		return ns;
	if (ns >> 32)
		return BUCKETS - 1;
	if (ns >> (exponent + 16))
		exponent += 16;
	if (ns >> (exponent + 8))
		exponent += 8;
	if (ns >> (exponent + 4))
		exponent += 4;
	if (ns >> (exponent + 2))
		exponent += 2;
	if (ns >> (exponent + 1))
		exponent += 1;
	/* ns is in [2^exponent, 2^(exponent+1)), and 5 bits below the first one count. */
	index = (exponent - 4) * 32 + ((ns >> (exponent - 5)) & 31);
	return index < BUCKETS ? index : BUCKETS - 1;
}

static __always_inline void arrived(struct bench_seen *sum, struct __sk_buff *skb, __u32 end)
{
	struct bench_trailer trailer;
	__u64 *count;
	__u32 index;

	if (end < SHORTEST || bpf_skb_load_bytes(skb, end - sizeof(trailer), &trailer, sizeof(trailer)) ||
	    trailer.magic != TAIL_MAGIC) {
		return;
	}
	sum->tails++;
	index = bucket(bpf_ktime_get_ns() - ((__u64)trailer.high << 32 | trailer.low));
	count = bpf_map_lookup_elem(&latencies, &index);
	if (count)
		(*count)++;
}

/* tc ingress: a frame's life ends here. */
SEC("tc")
int bench_sink(struct __sk_buff *skb)
{
	__u32 zero = 0, total, headers = sizeof(struct ethhdr) + sizeof(struct iphdr);
	struct bench_seen *sum = bpf_map_lookup_elem(&seen, &zero);
	struct bench_limits *limit = bpf_map_lookup_elem(&limits, &zero);
	struct bench_headers h;
	__u16 fragment, magic;

	if (!sum || !limit)
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(skb, 0, &h, sizeof(h)) || h.ethernet.h_proto != bpf_htons(ETH_P_IP) ||
	    h.ip.version != 4 || h.ip.ihl != 5) {
		sum->strange++;
		return TC_ACT_SHOT;
	}
	total = bpf_ntohs(h.ip.tot_len);
	fragment = bpf_ntohs(h.ip.frag_off);
	sum->packets++;
	if (total > limit->mtu)
		sum->oversize++;
	if (h.ip.protocol == IPPROTO_TCP && !(fragment & (XF_IP_MF | XF_IP_OFFSET)) && (h.l4[13] & XF_TCP_SYN)) {
		sum->syns++;
		if (h.l4[20] == 2 && ((__u32)h.l4[22] << 8 | h.l4[23]) <= limit->mss)
			sum->clamped++;
		return TC_ACT_SHOT;
	}
	if (!(fragment & XF_IP_OFFSET)) {
		headers += h.ip.protocol == IPPROTO_TCP ? (h.l4[12] >> 4) * 4 : sizeof(struct udphdr);
		if (!bpf_skb_load_bytes(skb, headers, &magic, sizeof(magic)) && magic == HEAD_MAGIC)
			sum->heads++;
	}
	sum->data += sizeof(h.ethernet) + total - headers;
	if (!(fragment & XF_IP_MF))
		arrived(sum, skb, sizeof(h.ethernet) + total);
	return TC_ACT_SHOT;
}

#include "bench_bounds.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
