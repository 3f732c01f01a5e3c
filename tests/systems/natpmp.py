"""A NAT-PMP server (RFC 6886) that grants every request and prints its protocol: natpmp.py ADDRESS PORT"""
import socket
import struct
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 5351))
while True:
    request, client = server.recvfrom(64)
    operation = request[1]
    # Version, 128 + operation, result, seconds since the start.
    answer = struct.pack("!BBHI", 0, 128 + operation, 0, 1)
    if operation == 0:
        # natpmpc refuses addresses that are not public, those for documentation too. Nobody connects to this one.
        answer += socket.inet_aton("9.9.9.9")
    else:
        inside, _, lifetime = struct.unpack("!HHI", request[4:12])
        answer += struct.pack("!HHI", inside, int(sys.argv[2]), lifetime)
        print({1: "udp", 2: "tcp"}[operation], flush=True)
    server.sendto(answer, client)
