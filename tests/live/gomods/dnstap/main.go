// Reads dnstap messages with dnstap's own library, and prints a line of JSON for each.
// usage: dnstap listen|dial unix|tcp|tls ADDRESS [CERT KEY]
package main

import (
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	tap "github.com/dnstap/golang-dnstap"
	fs "github.com/farsightsec/golang-framestream"
	"github.com/miekg/dns"
	"google.golang.org/protobuf/proto"
)

var output sync.Mutex

func main() {
	if len(os.Args) < 4 {
		fail("usage: dnstap listen|dial unix|tcp|tls ADDRESS [CERT KEY]")
	}
	mode, network, address := os.Args[1], os.Args[2], os.Args[3]
	var config *tls.Config
	if network == "tls" {
		network, config = "tcp", &tls.Config{InsecureSkipVerify: true}
		if len(os.Args) > 5 {
			pair, err := tls.LoadX509KeyPair(os.Args[4], os.Args[5])
			check(err)
			config.Certificates = []tls.Certificate{pair}
		}
	}
	if mode == "dial" {
		for range 600 {
			conn, err := net.Dial(network, address)
			if err == nil && config != nil {
				conn = tls.Client(conn, config)
			}
			if err == nil {
				read(conn)
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		fail("no server")
	}
	listener, err := net.Listen(network, address)
	check(err)
	for {
		conn, err := listener.Accept()
		check(err)
		if config != nil {
			conn = tls.Server(conn, config)
		}
		go read(conn)
	}
}

// Prints the messages of a connection until it ends.
func read(conn net.Conn) {
	defer conn.Close()
	options := &fs.ReaderOptions{ContentTypes: [][]byte{tap.FSContentType}, Bidirectional: true}
	reader, err := fs.NewReader(conn, options)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	show(map[string]any{"begun": true})
	buffer := make([]byte, 1<<20)
	for {
		length, err := reader.ReadFrame(buffer)
		if err != nil {
			ended := "broken"
			if err == io.EOF {
				ended = "finished"
			}
			show(map[string]any{"end": ended})
			return
		}
		envelope := new(tap.Dnstap)
		check(proto.Unmarshal(buffer[:length], envelope))
		message := envelope.Message
		line := map[string]any{
			"envelope": envelope.GetType().String(),
			"identity": string(envelope.Identity),
			"version":  string(envelope.Version),
			"extra":    string(envelope.Extra),
			"type":     message.GetType().String(),
			"family":   message.GetSocketFamily().String(),
			"protocol": message.GetSocketProtocol().String(),
			"from":     net.IP(message.QueryAddress).String(),
			"to":       net.IP(message.ResponseAddress).String(),
			"to_port":  message.GetResponsePort(),
			"ported":   message.GetQueryPort() > 0,
			"times":    []bool{message.QueryTimeSec != nil && message.QueryTimeNsec != nil, message.ResponseTimeSec != nil && message.ResponseTimeNsec != nil},
			"query":    decode(message.QueryMessage),
			"response": decode(message.ResponseMessage),
		}
		show(line)
	}
}

// Returns a message as text: the code, the flags, the question and the number of answers.
func decode(packet []byte) string {
	if packet == nil {
		return ""
	}
	message := new(dns.Msg)
	if err := message.Unpack(packet); err != nil {
		return "malformed " + hex.EncodeToString(packet)
	}
	text := dns.RcodeToString[message.Rcode]
	for _, question := range message.Question {
		text += " " + question.Name + " " + dns.TypeToString[question.Qtype]
	}
	return fmt.Sprintf("%s response=%v answers=%d", text, message.Response, len(message.Answer))
}

func show(line map[string]any) {
	text, err := json.Marshal(line)
	check(err)
	output.Lock()
	defer output.Unlock()
	fmt.Println(string(text))
}

func check(err error) {
	if err != nil {
		fail(err)
	}
}

func fail(reason any) {
	fmt.Fprintln(os.Stderr, reason)
	os.Exit(1)
}
