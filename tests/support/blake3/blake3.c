// SPDX-License-Identifier: Apache-2.0
// BLAKE3 (plain hash, 32 bytes of output), written from the public specification, simple and slow.
// It stands in for libblake3 in tests and carries the names and argument order of its C interface.
// Nothing that is installed links it.
#include <stdint.h>
#include <string.h>

enum { kBlockBytes = 64, kChunkBytes = 1024, kMaxDepth = 54, kChunkStart = 1, kChunkEnd = 2, kParent = 4, kRoot = 8 };

static const uint32_t kStart[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                                   0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};
static const uint8_t kPermutation[16] = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};

// The last compression of a node: run with kRoot it yields the digest, without it a chaining value.
struct node {
  uint32_t chaining[8];
  uint32_t words[16];
  uint64_t counter;
  uint32_t length;
  uint32_t flags;
};

struct hasher {
  uint32_t chaining[8];  // of the current chunk
  uint64_t chunk;        // its number
  uint8_t block[kBlockBytes];
  uint32_t block_bytes;
  uint32_t blocks_done;
  uint32_t depth;
  uint32_t stack[kMaxDepth][8];  // chaining values of finished subtrees, largest first
};

static uint32_t rotate(uint32_t value, int count) { return (value >> count) | (value << (32 - count)); }

static void mix(uint32_t* s, int a, int b, int c, int d, uint32_t x, uint32_t y) {
  s[a] = s[a] + s[b] + x;
  s[d] = rotate(s[d] ^ s[a], 16);
  s[c] = s[c] + s[d];
  s[b] = rotate(s[b] ^ s[c], 12);
  s[a] = s[a] + s[b] + y;
  s[d] = rotate(s[d] ^ s[a], 8);
  s[c] = s[c] + s[d];
  s[b] = rotate(s[b] ^ s[c], 7);
}

static void compress(const struct node* node, uint32_t flags, uint32_t out[8]) {
  uint32_t s[16];
  uint32_t m[16];
  memcpy(s, node->chaining, 32);
  memcpy(s + 8, kStart, 16);
  s[12] = (uint32_t)node->counter;
  s[13] = (uint32_t)(node->counter >> 32);
  s[14] = node->length;
  s[15] = node->flags | flags;
  memcpy(m, node->words, sizeof m);
  for (int round = 0; round < 7; ++round) {
    mix(s, 0, 4, 8, 12, m[0], m[1]);
    mix(s, 1, 5, 9, 13, m[2], m[3]);
    mix(s, 2, 6, 10, 14, m[4], m[5]);
    mix(s, 3, 7, 11, 15, m[6], m[7]);
    mix(s, 0, 5, 10, 15, m[8], m[9]);
    mix(s, 1, 6, 11, 12, m[10], m[11]);
    mix(s, 2, 7, 8, 13, m[12], m[13]);
    mix(s, 3, 4, 9, 14, m[14], m[15]);
    uint32_t permuted[16];
    for (int i = 0; i < 16; ++i) permuted[i] = m[kPermutation[i]];
    memcpy(m, permuted, sizeof m);
  }
  for (int i = 0; i < 8; ++i) out[i] = s[i] ^ s[i + 8];
}

static struct node chunk_node(const struct hasher* self, uint32_t flags) {
  struct node node;
  memset(&node, 0, sizeof node);
  memcpy(node.chaining, self->chaining, sizeof node.chaining);
  memcpy(node.words, self->block, self->block_bytes);  // little-endian, the rest is zero
  node.counter = self->chunk;
  node.length = self->block_bytes;
  node.flags = flags | (self->blocks_done == 0 ? kChunkStart : 0);
  return node;
}

static struct node parent_node(const uint32_t left[8], const uint32_t right[8]) {
  struct node node;
  memcpy(node.chaining, kStart, sizeof kStart);
  memcpy(node.words, left, 32);
  memcpy(node.words + 8, right, 32);
  node.counter = 0;
  node.length = kBlockBytes;
  node.flags = kParent;
  return node;
}

static void start_chunk(struct hasher* self, uint64_t chunk) {
  memcpy(self->chaining, kStart, sizeof kStart);
  self->chunk = chunk;
  self->block_bytes = 0;
  self->blocks_done = 0;
}

// Joins equal subtrees: there are as many as the number of finished chunks has trailing zero bits.
static void finish_chunk(struct hasher* self) {
  const struct node last = chunk_node(self, kChunkEnd);
  uint32_t value[8];
  compress(&last, 0, value);
  for (uint64_t chunks = self->chunk + 1; (chunks & 1) == 0; chunks >>= 1) {
    const struct node parent = parent_node(self->stack[--self->depth], value);
    compress(&parent, 0, value);
  }
  memcpy(self->stack[self->depth++], value, sizeof value);
  start_chunk(self, self->chunk + 1);
}

// Called with a full block, when more input is known to follow.
static void finish_block(struct hasher* self) {
  if (self->blocks_done == kChunkBytes / kBlockBytes - 1) {
    finish_chunk(self);
    return;
  }
  const struct node node = chunk_node(self, 0);
  compress(&node, 0, self->chaining);
  self->blocks_done += 1;
  self->block_bytes = 0;
}

void blake3_hasher_init(struct hasher* self) {
  memset(self, 0, sizeof *self);
  start_chunk(self, 0);
}

void blake3_hasher_update(struct hasher* self, const void* input, size_t length) {
  const uint8_t* bytes = input;
  while (length > 0) {
    if (self->block_bytes == kBlockBytes) finish_block(self);
    const size_t room = kBlockBytes - self->block_bytes;
    const size_t take = length < room ? length : room;
    memcpy(self->block + self->block_bytes, bytes, take);
    self->block_bytes += (uint32_t)take;
    bytes += take;
    length -= take;
  }
}

void blake3_hasher_finalize(const struct hasher* self, uint8_t* out, size_t length) {
  struct node node = chunk_node(self, kChunkEnd);
  for (uint32_t depth = self->depth; depth > 0; --depth) {
    uint32_t value[8];
    compress(&node, 0, value);
    node = parent_node(self->stack[depth - 1], value);
  }
  uint32_t digest[8];
  node.counter = 0;
  compress(&node, kRoot, digest);
  memcpy(out, digest, length < sizeof digest ? length : sizeof digest);
}
