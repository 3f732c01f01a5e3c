# A GlobalProtect gateway, as far as a client needs one: it knows alice, and answers pings.
import http.server, socketserver, ssl, struct, sys, urllib.parse

PRELOGIN = """<prelogin-response><status>Success</status><authentication-message>Enter login credentials</authentication-message>
<username-label>Username</username-label><password-label>Password</password-label></prelogin-response>"""
ARGUMENTS = ["(null)", "c00c1e", "persistent", "gateway", "alice", "local", "vsys1", "(empty_domain)", "(null)", "", "", "",
             "tunnel", "-1", "4100", "10.66.0.2"]
LOGIN = "<jnlp><application-desc>" + "".join(f"<argument>{a}</argument>" for a in ARGUMENTS) + "</application-desc></jnlp>"
CONFIG = """<response status="success"><ip-address>10.66.0.2</ip-address><netmask>255.255.255.255</netmask><mtu>1400</mtu>
<dns><member>10.66.0.1</member></dns><dns-suffix><member>corp.test</member></dns-suffix>
<access-routes><member>0.0.0.0/0</member></access-routes><ssl-tunnel-url>/ssl-tunnel-connect.sslvpn</ssl-tunnel-url></response>"""
HIP = """<response status="success"><hip-report-needed>no</hip-report-needed></response>"""
MAGIC = bytes.fromhex("1a2b3c4d")

def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xffff) + (total >> 16)
    return ~(total + (total >> 16)) & 0xffff

class Gateway(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_):
        pass
    def give(self, text, status=200):
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        fields = dict(urllib.parse.parse_qsl(body))
        path = self.path.split("?")[0]
        print(path, flush=True)
        if path == "/ssl-vpn/prelogin.esp":
            self.give(PRELOGIN)
        elif path == "/ssl-vpn/login.esp":
            good = (fields.get("user"), fields.get("passwd")) == ("alice", "secret")
            self.give(LOGIN) if good else self.give("", 512)
        elif path == "/ssl-vpn/getconfig.esp":
            self.give(CONFIG if fields.get("authcookie") == "c00c1e" else "errors getting SSL/VPN config")
        elif path == "/ssl-vpn/hipreportcheck.esp":
            self.give(HIP)
        else:
            self.give("<response status=\"success\"/>")
    def do_GET(self):
        print(self.path, flush=True)
        self.wfile.write(b"START_TUNNEL")
        while header := self.rfile.read(16):
            kind, length = struct.unpack("!HH", header[4:8])
            packet = bytearray(self.rfile.read(length))
            # An echo request of IPv4 becomes its answer.
            if length > 20 and packet[0] == 0x45 and packet[9] == 1 and packet[20] == 8:
                packet[12:16], packet[16:20] = packet[16:20], packet[12:16]
                packet[20:24] = b"\0\0\0\0"
                packet[22:24] = struct.pack("!H", checksum(bytes(packet[20:])))
                self.wfile.write(header + packet)
            elif length == 0:
                self.wfile.write(header)
            self.wfile.flush()
        self.close_connection = True

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

address, certificate, key = sys.argv[1:]
server = Server((address, 443), Gateway)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
