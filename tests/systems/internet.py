"""A web server: answers each request with its own name and the address that the request came from.

internet.py NAME ADDRESS PORT
"""
import socket
import sys
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{sys.argv[1]} {self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


# Not HTTPServer, which looks its own name up first.
class Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    address_family = socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET


Server((sys.argv[2], int(sys.argv[3])), Answer).serve_forever()
