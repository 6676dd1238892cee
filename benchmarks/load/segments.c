/* What the kernel counted on a client's socket. A file of its own: <linux/tcp.h>, which has the
 * whole of struct tcp_info, and <netinet/tcp.h> cannot be had together. */
#include "load.h"

#include <linux/tcp.h>
#include <sys/socket.h>

uint32_t segments_received(int fd) {
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return 0;
    return info.tcpi_data_segs_in;
}
