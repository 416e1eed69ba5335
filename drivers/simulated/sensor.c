/* What stands before a simulated camera, and how its sensor sees it. */
#define _GNU_SOURCE
#include "camera.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---------------------------------------------------------------- the scene file

 * Little endian: 8 bytes magic, u32 pictures, u32 noise; per picture u32 width, height, channels (1 or 3), 0, u64 offset of its pixels. */

static const char SCENE_MAGIC[8] = "STSCENE1";
enum { SCENE_HEADER = 16, SCENE_ENTRY = 24 };

struct picture {
    uint32_t width, height, channels, zero;
    uint64_t offset;
};

static struct picture picture_of(const struct scene *scene, uint64_t index) {
    struct picture picture;
    memcpy(&picture, scene->map + SCENE_HEADER + SCENE_ENTRY * index, sizeof picture);
    return picture;
}

void release_scene(struct scene *scene) {
    if (scene && --scene->references == 0) {
        munmap((void *)scene->map, scene->size);
        free(scene);
    }
}

static bool is_sound(const struct scene *scene, const struct model *model) {
    if (memcmp(scene->map, SCENE_MAGIC, sizeof SCENE_MAGIC) != 0 || scene->count == 0 || scene->noise > INT8_MAX ||
        scene->count > (scene->size - SCENE_HEADER) / SCENE_ENTRY)
        return false;
    for (uint32_t i = 0; i < scene->count; i++) {
        struct picture picture = picture_of(scene, i);
        uint64_t size = (uint64_t)picture.width * picture.height * picture.channels;
        if (picture.width > model->width || picture.height > model->height || (picture.channels != 1 && picture.channels != 3) ||
            picture.offset > scene->size || size > scene->size - picture.offset)
            return false;
    }
    return true;
}

static struct scene *open_scene(struct camera *camera, const char *name) {
    int file = openat(camera->directory, name, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0 || status.st_size < SCENE_HEADER) {
        if (file >= 0)
            close(file);
        return NULL;
    }
    struct scene *scene = calloc(1, sizeof *scene);
    void *map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (!scene || map == MAP_FAILED) {
        if (map != MAP_FAILED)
            munmap(map, (size_t)status.st_size);
        free(scene);
        return NULL;
    }
    *scene = (struct scene){.references = 1, .number = ++camera->scenes, .device = status.st_dev, .inode = status.st_ino, .map = map,
                            .size = (size_t)status.st_size};
    memcpy(&scene->count, scene->map + 8, 4);
    memcpy(&scene->noise, scene->map + 12, 4);
    if (!is_sound(scene, camera->model)) {
        release_scene(scene);
        return NULL;
    }
    return scene;
}

/* Sees what stands before the camera now. A file that is not a sound scene for this sensor counts as none. */
void latch(struct camera *camera, struct exposure *exposure) {
    char name[64];
    struct stat status;
    bool there = fstatat(camera->directory, file_name(camera, "scene", name), &status, 0) == 0;
    struct scene *scene = camera->scene;
    if (!there || !scene || scene->device != status.st_dev || scene->inode != status.st_ino) {
        release_scene(scene);
        camera->scene = scene = there ? open_scene(camera, name) : NULL;
    }
    exposure->latched = true;
    exposure->scene = scene;
    if (scene) {
        scene->references++;
        exposure->picture = scene->exposures++ % scene->count;
    } else {
        exposure->picture = camera->pattern_exposures++;
    }
}

/* ---------------------------------------------------------------- from the scene to pixels */

static void luma_row(const uint8_t *rgb, uint8_t *target, int64_t n) {
    for (int64_t i = 0; i < n; i++) /* ITU-R BT.601, weights in 1/32768 */
        target[i] = (uint8_t)((9798u * rgb[3 * i] + 19235u * rgb[3 * i + 1] + 3735u * rgb[3 * i + 2] + 16384u) >> 15);
}

/* The row begins in an even column of the sensor. */
static void bayer_row(const uint8_t *rgb, uint8_t *target, int64_t n, const uint8_t cfa[2]) {
    const uint8_t *even = rgb + cfa[0], *odd = rgb + 3 + cfa[1];
    for (int64_t i = 0; i < n / 2; i++) {
        target[2 * i] = even[6 * i];
        target[2 * i + 1] = odd[6 * i];
    }
    if (n % 2)
        target[n - 1] = even[3 * (n - 1)];
}

/* Colour (0 red, 1 green, 2 blue) of sensor rows 0 and 1, columns 0 and 1. */
static const uint8_t CFA[][2][2] = {
    [BAYER_RG] = {{0, 1}, {1, 2}},
    [BAYER_GR] = {{1, 0}, {2, 1}},
    [BAYER_GB] = {{1, 2}, {0, 1}},
    [BAYER_BG] = {{2, 1}, {1, 0}},
};

/* Row `y` of the sensor, `n` pixels of it, as the format sees it. */
static void see_row(const struct format *format, int64_t y, const uint8_t *source, uint32_t channels, uint8_t *target, int64_t n) {
    bool rgb = format->colours == RGB, bgr = format->colours == BGR;
    if (channels == 1 && (rgb || bgr)) {
        for (int64_t i = 0; i < n; i++)
            memset(target + 3 * i, source[i], 3);
    } else if (bgr) {
        for (int64_t i = 0; i < n; i++)
            for (int64_t channel = 0; channel < 3; channel++)
                target[3 * i + channel] = source[3 * i + 2 - channel];
    } else if (channels == 1 || rgb) {
        memcpy(target, source, (size_t)(n * channels));
    } else if (format->colours == MONO) {
        luma_row(source, target, n);
    } else {
        bayer_row(source, target, n, CFA[format->colours][y % 2]);
    }
}

static void brighten(uint8_t *samples, int64_t n, uint64_t brightness) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t value = (samples[i] * (uint32_t)brightness + NOMINAL / 2) / NOMINAL;
        samples[i] = value < 255 ? (uint8_t)value : 255;
    }
}

/* Draws a picture, centred on the sensor (rounded down to an even pixel), into the region, which is dark around it. */
static void draw_picture(struct camera *camera, const struct plate_key *key, const struct scene *scene) {
    const struct model *model = camera->model;
    const struct region *region = &key->region;
    int64_t samples = samples_per_pixel(key->format);
    struct picture picture = picture_of(scene, key->picture);
    int64_t left = (model->width - picture.width) / 2 & ~1, top = (model->height - picture.height) / 2 & ~1;
    int64_t x = larger(left, region->x), n = smaller(left + picture.width, region->x + region->width) - x;
    int64_t first = larger(top, region->y), bottom = smaller(top + picture.height, region->y + region->height);
    if (n < region->width || bottom - first < region->height)
        memset(camera->plate, 0, (size_t)(region->width * region->height * samples));
    for (int64_t y = first; n > 0 && y < bottom; y++) {
        const uint8_t *source = scene->map + picture.offset + ((y - top) * picture.width + x - left) * picture.channels;
        uint8_t *target = camera->plate + ((y - region->y) * region->width + x - region->x) * samples;
        see_row(key->format, y, source, picture.channels, target, n);
        if (key->brightness != NOMINAL)
            brighten(target, n * samples, key->brightness);
    }
}

/* A diagonal ramp, grey, that moves one pixel per exposure. */
static void draw_pattern(struct camera *camera, const struct plate_key *key) {
    const struct region *region = &key->region;
    int64_t samples = samples_per_pixel(key->format);
    for (int64_t y = 0; y < region->height; y++) {
        uint8_t *row = camera->plate + y * region->width * samples;
        uint64_t first = (uint64_t)(region->x + region->y + y) + key->picture;
        if (samples == 1)
            for (int64_t x = 0; x < region->width; x++)
                row[x] = (uint8_t)(first + (uint64_t)x);
        else
            for (int64_t x = 0; x < region->width; x++)
                memset(row + x * samples, (int)((first + (uint64_t)x) & 0xFF), (size_t)samples);
        if (key->brightness != NOMINAL)
            brighten(row, region->width * samples, key->brightness);
    }
}

/* Makes `plate` the picture that the key describes; does nothing when it already is. */
void render(struct camera *camera, const struct plate_key *key, const struct scene *scene) {
    if (memcmp(&camera->plate_key, key, sizeof *key) == 0)
        return;
    camera->plate_key = *key;
    if (!scene) {
        draw_pattern(camera, key);
        return;
    }
    draw_picture(camera, key, scene);
}

static uint32_t next_random(struct camera *camera) { /* xorshift32 (Marsaglia 2003) */
    camera->random ^= camera->random << 13;
    camera->random ^= camera->random >> 17;
    return camera->random ^= camera->random << 5;
}

static void add_noise(const uint8_t *restrict source, const int8_t *restrict noise, uint8_t *restrict target, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int16_t value = (int16_t)(source[i] + noise[i]);
        target[i] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}

static void set_noise(struct camera *camera, uint32_t amplitude) {
    if (amplitude == 0 || camera->noise_amplitude == amplitude)
        return;
    camera->noise_amplitude = amplitude;
    for (size_t i = 0; i < sizeof camera->noise; i++)
        camera->noise[i] = (int8_t)((int32_t)(next_random(camera) % (2 * amplitude + 1)) - (int32_t)amplitude);
}

/* Reads the first lines of the sensor out: the plate, with noise of up to `amplitude` grey levels either way; `again` as the last time. */
void read_out(struct camera *camera, uint8_t *target, int64_t lines, uint32_t amplitude, bool again) {
    const struct format *format = camera->plate_key.format;
    int64_t samples = samples_per_pixel(format);
    size_t size = (size_t)(lines * camera->plate_key.region.width * samples);
    uint8_t noisy[NOISE_CHUNK];
    set_noise(camera, amplitude);
    if (again)
        camera->random = camera->random_before;
    camera->random_before = camera->random;
    for (size_t done = 0; done < size; done += NOISE_CHUNK) {
        size_t n = size - done < NOISE_CHUNK ? size - done : NOISE_CHUNK;
        const uint8_t *source = camera->plate + done;
        uint8_t *place = target + (format->packing == BYTES ? done : bytes_of(format, (int64_t)done));
        if (amplitude == 0) {
            lay_out(format, source, n, place);
            continue;
        }
        uint8_t *sum = format->packing == BYTES ? place : noisy;
        add_noise(source, camera->noise + next_random(camera) % NOISE_TILE, sum, n);
        if (sum == noisy)
            lay_out(format, noisy, n, place);
    }
}
