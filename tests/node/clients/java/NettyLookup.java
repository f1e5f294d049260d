import io.netty.buffer.ByteBuf;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.nio.NioDatagramChannel;
import io.netty.channel.socket.nio.NioSocketChannel;
import io.netty.handler.codec.dns.DefaultDnsQuestion;
import io.netty.handler.codec.dns.DefaultDnsRecordDecoder;
import io.netty.handler.codec.dns.DnsPtrRecord;
import io.netty.handler.codec.dns.DnsRawRecord;
import io.netty.handler.codec.dns.DnsRecord;
import io.netty.handler.codec.dns.DnsRecordType;
import io.netty.resolver.ResolvedAddressTypes;
import io.netty.resolver.dns.DnsNameResolver;
import io.netty.resolver.dns.DnsNameResolverBuilder;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;

/** Netty's own resolver, with both families and with TCP for truncated responses, as frameworks configure it. */
public class NettyLookup {
    public static void main(String[] questions) throws Exception {
        NioEventLoopGroup group = new NioEventLoopGroup(1);
        DnsNameResolver resolver = new DnsNameResolverBuilder(group.next())
                .channelType(NioDatagramChannel.class)
                .socketChannelType(NioSocketChannel.class)
                .resolvedAddressTypes(ResolvedAddressTypes.IPV4_PREFERRED)
                .build();
        for (String question : questions) {
            String[] parts = question.split("=", 2);
            String result;
            try {
                TreeSet<String> found = look(resolver, parts[0], parts[1]);
                result = found.isEmpty() ? "-" : String.join(" ", found);
            } catch (ExecutionException error) {
                // A name that does not exist has no further cause; a timeout has one.
                Throwable cause = error.getCause();
                boolean isMissing = cause instanceof UnknownHostException && cause.getCause() == null;
                result = isMissing ? "-" : "!" + cause;
            }
            System.out.println(question + "\t" + result);
        }
        group.shutdownGracefully(0, 0, TimeUnit.SECONDS);
    }

    static TreeSet<String> look(DnsNameResolver resolver, String kind, String name) throws Exception {
        TreeSet<String> found = new TreeSet<>();
        if (kind.equals("host")) {
            for (InetAddress address : resolver.resolveAll(name).get()) {
                found.add(Lookup.text(address));
            }
            return found;
        }
        boolean isAddress = kind.equals("ptr");
        DnsRecordType type = isAddress ? DnsRecordType.PTR : DnsRecordType.SRV;
        String asked = isAddress ? reversed(name) : name;
        for (DnsRecord record : resolver.resolveAll(new DefaultDnsQuestion(asked, type)).get()) {
            if (record instanceof DnsPtrRecord) {
                found.add(((DnsPtrRecord) record).hostname().replaceAll("\\.$", ""));
            } else if (record instanceof DnsRawRecord && record.type().equals(DnsRecordType.SRV)) {
                ByteBuf data = ((DnsRawRecord) record).content();
                data.skipBytes(4);
                int port = data.readUnsignedShort();
                found.add(DefaultDnsRecordDecoder.decodeName(data).replaceAll("\\.$", "") + ":" + port);
            }
        }
        return found;
    }

    static String reversed(String address) {
        String[] bytes = address.split("\\.");
        return bytes[3] + "." + bytes[2] + "." + bytes[1] + "." + bytes[0] + ".in-addr.arpa.";
    }
}
