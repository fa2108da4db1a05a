/* Writes lines into a ring in shared memory that `hsi-run --follow` reads.

   struct hsi_ring ring;
   hsi_ring_open(&ring, "/dev/shm/camera", 640, 200, 12, 0, 1024);
   hsi_ring_write(&ring, line);        in the grabber's callback; never waits
   hsi_ring_close(&ring);

   Link with zlib (crc32). Numbers are little-endian, as the machines are. */

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

struct hsi_ring {
    uint8_t *map;
    uint64_t slots, slot_bytes, line_bytes, written;
};

static void hsi_ring_put(uint8_t *place, uint64_t number) {
    __atomic_store_n((uint64_t *)place, number, __ATOMIC_RELEASE);
}

/* type is ENVI's: 1 uint8, 2 int16, 4 float32, 12 uint16; interleave 0 bil, 1 bip. */
static int hsi_ring_open(struct hsi_ring *ring, const char *path, uint32_t cols,
                         uint32_t bands, uint32_t type, uint32_t interleave,
                         uint64_t slots) {
    uint64_t item = type == 1 ? 1 : type == 4 ? 4 : 2;
    unlink(path); /* a reader of an older ring would be killed if that was cut */
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file < 0) return -1;
    ring->line_bytes = item * cols * bands;
    /* Slots begin at multiples of 8, for numbers that are written at once. */
    ring->slot_bytes = 32 + (ring->line_bytes + 7) / 8 * 8;
    ring->slots = slots;
    ring->written = 0;
    uint64_t size = 4096 + slots * ring->slot_bytes;
    if (ftruncate(file, size) < 0) return -1;
    ring->map = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (ring->map == MAP_FAILED) return -1;
    uint32_t sizes[4] = {cols, bands, type, interleave};
    memcpy(ring->map + 8, sizes, sizeof sizes);
    hsi_ring_put(ring->map + 24, slots);
    hsi_ring_put(ring->map + 32, ring->slot_bytes);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    memcpy(ring->map, "HSIRING1", 8);
    return 0;
}

static void hsi_ring_write(struct hsi_ring *ring, const void *line) {
    uint8_t *slot = ring->map + 4096 + ring->written % ring->slots * ring->slot_bytes;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t nanoseconds = now.tv_sec * 1000000000ull + now.tv_nsec;
    uint32_t crc = crc32(0, line, ring->line_bytes);
    hsi_ring_put(slot, UINT64_MAX);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    memcpy(slot + 8, &nanoseconds, 8);
    memcpy(slot + 16, &crc, 4);
    memcpy(slot + 32, line, ring->line_bytes);
    hsi_ring_put(slot, ring->written);
    ring->written += 1;
    hsi_ring_put(ring->map + 40, ring->written);
}

static void hsi_ring_close(struct hsi_ring *ring) {
    hsi_ring_put(ring->map + 48, 1);
    munmap(ring->map, 4096 + ring->slots * ring->slot_bytes);
}
