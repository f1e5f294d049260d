import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.Arrays;
import java.util.Hashtable;
import java.util.TreeSet;
import javax.naming.NameNotFoundException;
import javax.naming.NamingEnumeration;
import javax.naming.directory.Attribute;
import javax.naming.directory.InitialDirContext;

/** The JDK's two ways: InetAddress uses the C library, JNDI has a resolver of its own, here for SRV. */
public class Lookup {
    public static void main(String[] questions) throws Exception {
        for (String question : questions) {
            String[] parts = question.split("=", 2);
            String result;
            try {
                TreeSet<String> found = look(parts[0], parts[1]);
                result = found.isEmpty() ? "-" : String.join(" ", found);
            } catch (UnknownHostException | NameNotFoundException error) {
                result = "-";
            } catch (Exception error) {
                result = "!" + error;
            }
            System.out.println(question + "\t" + result);
        }
    }

    static TreeSet<String> look(String kind, String name) throws Exception {
        TreeSet<String> found = new TreeSet<>();
        switch (kind) {
            case "host":
                for (InetAddress address : InetAddress.getAllByName(name)) {
                    found.add(text(address));
                }
                break;
            case "ptr":
                String host = InetAddress.getByName(name).getCanonicalHostName();
                if (!host.equals(name)) {
                    found.add(host);
                }
                break;
            default:
                Hashtable<String, String> settings = new Hashtable<>();
                settings.put("java.naming.factory.initial", "com.sun.jndi.dns.DnsContextFactory");
                settings.put("java.naming.provider.url", "dns:");
                Attribute records = new InitialDirContext(settings).getAttributes(name, new String[] {"SRV"}).get("SRV");
                NamingEnumeration<?> all = records == null ? null : records.getAll();
                while (all != null && all.hasMore()) {
                    String[] fields = all.next().toString().split(" ");
                    found.add(fields[3].replaceAll("\\.$", "") + ":" + fields[2]);
                }
        }
        return found;
    }

    /** The shortest form of an IPv6 address, which Java does not print. */
    static String text(InetAddress address) {
        if (address.getAddress().length == 4) {
            return address.getHostAddress();
        }
        String text = address.getHostAddress().replaceAll("%.*", "");
        return text.replaceFirst("(^|:)0(:0)+(:|$)", "::");
    }
}
