/* Pixel formats: names and values of the GenICam PFNC, and how 8-bit samples are laid out in them. */
#include "camera.h"

#include <string.h>

#define BAYER(suffix, rg, gr, gb, bg, depth, packing)                       \
    {"BayerRG" suffix, rg, depth, BAYER_RG, packing},                       \
        {"BayerGR" suffix, gr, depth, BAYER_GR, packing},                   \
        {"BayerGB" suffix, gb, depth, BAYER_GB, packing},                   \
        {"BayerBG" suffix, bg, depth, BAYER_BG, packing}

/* Words of 16 bits with 10 in them, full scale 1023, are what was measured on an MQ042. */
static const struct format FORMATS[] = {
    {"Mono8", 0x01080001, 8, MONO, BYTES},
    {"Mono10", 0x01100003, 10, MONO, WORDS},
    {"Mono12", 0x01100005, 12, MONO, WORDS},
    {"Mono16", 0x01100007, 10, MONO, WORDS},
    {"Mono10p", 0x010A0046, 10, MONO, BITSTREAM},
    {"Mono12p", 0x010C0047, 12, MONO, BITSTREAM},
    {"Mono10Packed", 0x010C0004, 10, MONO, GIGE},
    {"Mono12Packed", 0x010C0006, 12, MONO, GIGE},
    BAYER("8", 0x01080009, 0x01080008, 0x0108000A, 0x0108000B, 8, BYTES),
    BAYER("10", 0x0110000D, 0x0110000C, 0x0110000E, 0x0110000F, 10, WORDS),
    BAYER("12", 0x01100011, 0x01100010, 0x01100012, 0x01100013, 12, WORDS),
    BAYER("16", 0x0110002F, 0x0110002E, 0x01100030, 0x01100031, 10, WORDS),
    BAYER("10p", 0x010A0058, 0x010A0056, 0x010A0054, 0x010A0052, 10, BITSTREAM),
    BAYER("12p", 0x010C0059, 0x010C0057, 0x010C0055, 0x010C0053, 12, BITSTREAM),
    BAYER("10Packed", 0x010C0027, 0x010C0026, 0x010C0028, 0x010C0029, 10, GIGE),
    BAYER("12Packed", 0x010C002B, 0x010C002A, 0x010C002C, 0x010C002D, 12, GIGE),
    {"RGB8", 0x02180014, 8, RGB, BYTES},
    {"BGR8", 0x02180015, 8, BGR, BYTES},
};

const struct format *format_at(size_t index) { return index < sizeof FORMATS / sizeof FORMATS[0] ? &FORMATS[index] : NULL; }

const struct format *format_of(int64_t value) {
    for (size_t i = 0; i < sizeof FORMATS / sizeof FORMATS[0]; i++)
        if (FORMATS[i].value == value)
            return &FORMATS[i];
    return NULL;
}

int64_t samples_per_pixel(const struct format *format) { return format->colours == RGB || format->colours == BGR ? 3 : 1; }

size_t bytes_of(const struct format *format, int64_t pixels) { return (size_t)(pixels * (format->value >> 16 & 0xFF) / 8); }

/* A sample of 8 bits as one of more: the highest bits are repeated below, so that 255 is full scale and `>> (depth - 8)` gives it back. */
static inline uint32_t deepen(uint8_t sample, uint32_t depth) { return (uint32_t)sample << (depth - 8) | sample >> (16 - depth); }

static void lay_out_words(uint32_t depth, const uint8_t *restrict samples, size_t n, uint8_t *restrict target) {
    for (size_t i = 0; i < n; i++) {
        uint32_t value = deepen(samples[i], depth);
        target[2 * i] = (uint8_t)value;
        target[2 * i + 1] = (uint8_t)(value >> 8);
    }
}

/* PFNC's `p`: one stream of bits, the lowest first. */
static void lay_out_bitstream(uint32_t depth, const uint8_t *restrict samples, size_t n, uint8_t *restrict target) {
    for (size_t i = 0; i < n; i += 4) {
        uint64_t bits = 0;
        for (uint32_t j = 0; j < 4; j++)
            bits |= (uint64_t)deepen(samples[i + j], depth) << (j * depth);
        for (uint32_t j = 0; j < depth / 2; j++)
            *target++ = (uint8_t)(bits >> (8 * j));
    }
}

/* GigE Vision's `Packed`: two pixels in three bytes, the high bits of both at the outside and the low ones between. */
static void lay_out_gige(uint32_t depth, const uint8_t *restrict samples, size_t n, uint8_t *restrict target) {
    uint32_t low = depth - 8, mask = (1u << low) - 1;
    for (size_t i = 0; i < n; i += 2, target += 3) {
        uint32_t first = deepen(samples[i], depth), second = deepen(samples[i + 1], depth);
        target[0] = (uint8_t)(first >> low);
        target[1] = (uint8_t)((first & mask) | (second & mask) << 4);
        target[2] = (uint8_t)(second >> low);
    }
}

/* `n` is a multiple of 4, as the width of every region is. */
void lay_out(const struct format *format, const uint8_t *restrict samples, size_t n, uint8_t *restrict target) {
    switch (format->packing) {
    case BYTES: memcpy(target, samples, n); break;
    case WORDS: lay_out_words(format->depth, samples, n, target); break;
    case BITSTREAM: lay_out_bitstream(format->depth, samples, n, target); break;
    case GIGE: lay_out_gige(format->depth, samples, n, target); break;
    }
}
