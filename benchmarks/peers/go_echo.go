// A goroutine for each connection: https://pkg.go.dev/net#example-Listener
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"os"
)

func echo(connection net.Conn) {
	defer connection.Close()
	buffer := make([]byte, 65536)
	for {
		count, err := connection.Read(buffer)
		if err != nil {
			return
		}
		if _, err := connection.Write(buffer[:count]); err != nil {
			return
		}
	}
}

// bulk sends a stream of which byte n is n % 251.
func bulk(connection net.Conn) {
	defer connection.Close()
	chunk := make([]byte, 251*261)
	for i := range chunk {
		chunk[i] = byte(i % 251)
	}
	for {
		if _, err := connection.Write(chunk); err != nil {
			return
		}
	}
}

func main() {
	if (len(os.Args) != 2 && len(os.Args) != 4) || (os.Args[1] != "echo" && os.Args[1] != "bulk") {
		log.Fatal("usage: go_echo echo|bulk [CERTIFICATE KEY]")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") // its backlog is net.core.somaxconn
	if err != nil {
		log.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if len(os.Args) == 4 {
		certificate, err := tls.LoadX509KeyPair(os.Args[2], os.Args[3])
		if err != nil {
			log.Fatal(err)
		}
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}})
	}
	serve := echo
	if os.Args[1] == "bulk" {
		serve = bulk
	}
	fmt.Printf("{\"port\": %d}\n", port)
	go func() { // until nobody holds standard input any more
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(connection)
	}
}
