/* A PLC by libmodbus at a serial port:  libmodbus_plc server|client|client23 PORT
 *
 * As server it lets itself be written and read; as client it writes 32..45 and reads 0..23, by FC16 and FC3 or by FC23.
 */
#include <errno.h>
#include <modbus.h>
#include <unistd.h>

#include "pipe.h"

static void serve(modbus_t *modbus) {
    modbus_mapping_t *mapping = modbus_mapping_new(0, 0, 46, 0);
    uint8_t query[MODBUS_RTU_MAX_ADU_LENGTH];
    for (;;) {
        int length = modbus_receive(modbus, query);
        if (length < 0)
            modbus_flush(modbus);
        if (length <= 0)
            continue;
        pthread_mutex_lock(&lock);
        memcpy(mapping->tab_registers, registers, sizeof registers);
        modbus_reply(modbus, query, length, mapping);
        memcpy(registers, mapping->tab_registers, sizeof registers);
        pthread_mutex_unlock(&lock);
    }
}

static void poll_station(modbus_t *modbus, int both) {
    uint16_t written[14], read[24];
    for (;;) {
        pthread_mutex_lock(&lock);
        memcpy(written, registers + 32, sizeof written);
        pthread_mutex_unlock(&lock);
        int done = both ? modbus_write_and_read_registers(modbus, 32, 14, written, 0, 24, read)
                        : modbus_write_registers(modbus, 32, 14, written);
        if (done > 0 && !both)
            done = modbus_read_registers(modbus, 0, 24, read);
        if (done < 0)
            modbus_flush(modbus);
        pthread_mutex_lock(&lock);
        if (done == 24)
            memcpy(registers, read, sizeof read);
        pthread_mutex_unlock(&lock);
        usleep(1000);
    }
}

int main(int count, char **words) {
    if (count != 3)
        return 2;
    modbus_t *modbus = modbus_new_rtu(words[2], 115200, 'N', 8, 1);
    if (!modbus || modbus_set_slave(modbus, 1) || modbus_connect(modbus)) {
        fprintf(stderr, "%s: %s\n", words[2], modbus_strerror(errno));
        return 1;
    }
    modbus_set_response_timeout(modbus, 0, 200000);
    modbus_set_byte_timeout(modbus, 0, 20000);
    open_to_test();
    if (!strcmp(words[1], "server"))
        serve(modbus);
    poll_station(modbus, !strcmp(words[1], "client23"));
}
