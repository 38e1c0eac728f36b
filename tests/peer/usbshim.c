/* In the place of libusb-1.0: one device, whose transfers go over a Unix socket to our simulator.
 *
 * BRIDGE_SOCKET is the path, BRIDGE_IDS "VVVV:PPPP". Only what nutdrv_qx and pyusb call. Structures as in libusb's ABI
 * (https://libusb.sourceforge.io/api-1.0/). The string descriptors are asked of the device, as libusb does.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { IO = -1, NOT_FOUND = -5, OTHER = -99 };

struct device_descriptor {
    uint8_t bLength, bDescriptorType;
    uint16_t bcdUSB;
    uint8_t bDeviceClass, bDeviceSubClass, bDeviceProtocol, bMaxPacketSize0;
    uint16_t idVendor, idProduct, bcdDevice;
    uint8_t iManufacturer, iProduct, iSerialNumber, bNumConfigurations;
};
struct endpoint_descriptor {
    uint8_t bLength, bDescriptorType, bEndpointAddress, bmAttributes;
    uint16_t wMaxPacketSize;
    uint8_t bInterval, bRefresh, bSynchAddress;
    const unsigned char *extra;
    int extra_length;
};
struct interface_descriptor {
    uint8_t bLength, bDescriptorType, bInterfaceNumber, bAlternateSetting, bNumEndpoints, bInterfaceClass,
        bInterfaceSubClass, bInterfaceProtocol, iInterface;
    const struct endpoint_descriptor *endpoint;
    const unsigned char *extra;
    int extra_length;
};
struct interface { const struct interface_descriptor *altsetting; int num_altsetting; };
struct config_descriptor {
    uint8_t bLength, bDescriptorType;
    uint16_t wTotalLength;
    uint8_t bNumInterfaces, bConfigurationValue, iConfiguration, bmAttributes, MaxPower;
    const struct interface *interface;
    const unsigned char *extra;
    int extra_length;
};
struct version { uint16_t major, minor, micro, nano; const char *rc, *describe; };

static int line = -1;
static char device[1], handle[1]; /* only their addresses count */

static int whole(int out, void *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = out ? write(line, (char *)data + at, size - at) : read(line, (char *)data + at, size - at);
        if (n <= 0)
            return 0;
        at += (size_t)n;
    }
    return 1;
}

/* One transfer: the head, the data of an OUT; back come a number, a length, the data of an IN. */
static int transfer(char what, int in, uint8_t first, uint8_t request, uint16_t value, uint16_t index,
                    unsigned char *data, uint16_t length, uint32_t within_ms)
{
    unsigned char head[13];
    head[0] = (unsigned char)what;
    head[1] = first;
    head[2] = request;
    memcpy(head + 3, &value, 2); /* little-endian on every machine that runs this */
    memcpy(head + 5, &index, 2);
    memcpy(head + 7, &length, 2);
    memcpy(head + 9, &within_ms, 4);
    if (!whole(1, head, sizeof(head)) || (!in && length && !whole(1, data, length)))
        return IO;
    int32_t number;
    uint32_t size;
    if (!whole(0, &number, 4) || !whole(0, &size, 4) || size > length || (size && !whole(0, data, size)))
        return IO;
    return number;
}

/* What is no transfer: 1 claim, 2 release, 3 detach, 4 attach, 5 is the kernel's driver there, 6 is the device there. */
static int other(uint8_t what)
{
    unsigned char nothing[1];
    return transfer('K', 1, what, 0, 0, 0, nothing, 0, 1000);
}

int libusb_init(void **context)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = getenv("BRIDGE_SOCKET");
    if (context)
        *context = handle;
    if (line >= 0)
        return 0;
    if (!path || strlen(path) >= sizeof(address.sun_path))
        return OTHER;
    strcpy(address.sun_path, path);
    line = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return connect(line, (struct sockaddr *)&address, sizeof(address)) ? IO : 0;
}

void libusb_exit(void *context) { (void)context; }

ssize_t libusb_get_device_list(void *context, void ***list)
{
    (void)context;
    *list = calloc(2, sizeof(void *));
    if (other(6) != 1)
        return 0;
    (*list)[0] = device;
    return 1;
}

void libusb_free_device_list(void **list, int unref) { (void)unref; free(list); }

int libusb_get_device_descriptor(void *dev, struct device_descriptor *found)
{
    unsigned vendor = 0, product = 0;
    (void)dev;
    if (sscanf(getenv("BRIDGE_IDS") ? getenv("BRIDGE_IDS") : "", "%x:%x", &vendor, &product) != 2)
        return OTHER;
    memset(found, 0, sizeof(*found));
    found->bLength = 18;
    found->bDescriptorType = 1;
    found->bcdUSB = 0x0110;
    found->bMaxPacketSize0 = 8;
    found->idVendor = (uint16_t)vendor;
    found->idProduct = (uint16_t)product;
    found->iManufacturer = 1;
    found->iProduct = 2;
    found->bNumConfigurations = 1;
    return 0;
}

int libusb_get_config_descriptor(void *dev, uint8_t index, struct config_descriptor **found)
{
    static const struct endpoint_descriptor ends[2] = {
        {7, 5, 0x81, 3, 8, 10, 0, 0, NULL, 0}, {7, 5, 0x02, 3, 8, 10, 0, 0, NULL, 0}};
    static const struct interface_descriptor setting = {9, 4, 0, 0, 2, 3, 0, 0, 0, ends, NULL, 0};
    static const struct interface interface = {&setting, 1};
    static struct config_descriptor configuration = {9, 2, 18, 1, 1, 0, 0x80, 50, &interface, NULL, 0};
    (void)dev;
    (void)index;
    *found = &configuration;
    return 0;
}

void libusb_free_config_descriptor(void *configuration) { (void)configuration; }
uint8_t libusb_get_bus_number(void *dev) { (void)dev; return 1; }
int libusb_open(void *dev, void **found) { (void)dev; *found = handle; return 0; }
void libusb_close(void *found) { (void)found; }
int libusb_claim_interface(void *found, int number) { (void)found; (void)number; return other(1); }
int libusb_release_interface(void *found, int number) { (void)found; (void)number; return other(2); }
int libusb_detach_kernel_driver(void *found, int number) { (void)found; (void)number; return other(3); }
int libusb_attach_kernel_driver(void *found, int number) { (void)found; (void)number; return other(4); }
int libusb_kernel_driver_active(void *found, int number) { (void)found; (void)number; return other(5); }
int libusb_get_configuration(void *found, int *number) { (void)found; *number = 1; return 0; }
int libusb_set_configuration(void *found, int number) { (void)found; (void)number; return 0; }
uint8_t libusb_get_device_address(void *dev) { (void)dev; return 2; }
uint8_t libusb_get_port_number(void *dev) { (void)dev; return 2; }
int libusb_get_device_speed(void *dev) { (void)dev; return 1; }
int libusb_get_port_numbers(void *dev, uint8_t *ports, int size) { (void)dev; ports[0] = 2; return size > 0; }
void *libusb_get_parent(void *dev) { (void)dev; return NULL; }
void *libusb_ref_device(void *dev) { return dev; }
void libusb_unref_device(void *dev) { (void)dev; }
void libusb_set_debug(void *context, int level) { (void)context; (void)level; }
int libusb_set_auto_detach_kernel_driver(void *found, int on) { (void)found; (void)on; return 0; }
int libusb_set_interface_alt_setting(void *found, int a, int b) { (void)found; (void)a; (void)b; return 0; }
int libusb_clear_halt(void *found, unsigned char endpoint) { (void)found; (void)endpoint; return 0; }
int libusb_reset_device(void *found) { (void)found; return 0; }

int libusb_control_transfer(void *found, uint8_t kind, uint8_t request, uint16_t value, uint16_t index,
                            unsigned char *data, uint16_t length, unsigned int within_ms)
{
    (void)found;
    return transfer('C', kind & 0x80, kind, request, value, index, data, length, within_ms);
}

int libusb_interrupt_transfer(void *found, unsigned char endpoint, unsigned char *data, int length, int *done,
                              unsigned int within_ms)
{
    (void)found;
    int number = transfer(endpoint & 0x80 ? 'I' : 'O', endpoint & 0x80, endpoint, 0, 0, 0, data, (uint16_t)length,
                          within_ms);
    *done = number > 0 ? number : 0;
    return number < 0 ? number : 0;
}

int libusb_get_string_descriptor_ascii(void *found, uint8_t index, unsigned char *data, int length)
{
    unsigned char raw[255];
    int got = libusb_control_transfer(found, 0x80, 6, 0x0300, 0, raw, sizeof(raw), 1000);
    if (!index || got < 4)
        return got < 0 ? got : IO;
    uint16_t language = (uint16_t)(raw[2] | raw[3] << 8);
    got = libusb_control_transfer(found, 0x80, 6, (uint16_t)(0x0300 | index), language, raw, sizeof(raw), 1000);
    if (got < 0)
        return got;
    if (got < 2 || raw[1] != 3 || raw[0] > got)
        return IO;
    int at = 0;
    for (int place = 2; place < raw[0] && at < length - 1; place += 2)
        data[at++] = raw[place] < 0x80 && !raw[place + 1] ? raw[place] : '?';
    data[at] = 0;
    return at;
}

const char *libusb_strerror(int number)
{
    static char text[32];
    snprintf(text, sizeof(text), "libusb %d", number);
    return text;
}

const struct version *libusb_get_version(void)
{
    static const struct version it = {1, 0, 26, 0, "", "our shim"};
    return &it;
}

/* never called: no bulk and no isochronous transfers */
int libusb_bulk_transfer(void) { return OTHER; }
void *libusb_alloc_transfer(int packets) { (void)packets; return NULL; }
void libusb_free_transfer(void *it) { (void)it; }
int libusb_submit_transfer(void *it) { (void)it; return OTHER; }
int libusb_get_max_iso_packet_size(void *dev, unsigned char endpoint) { (void)dev; (void)endpoint; return OTHER; }
int libusb_handle_events(void *context) { (void)context; return OTHER; }
